//! Which devices an engine is opened on.

use std::str::FromStr;

use crate::error::{EngineError, Result};

/// Ranks that one processor may be: more would only take turns.
const MOST_PROCESSOR_RANKS: usize = 64;

/// Devices of one kind that train together; the first of them also generates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceList {
    /// The processor, as so many ranks with a part of its threads each.
    Processor { ranks: usize },
    /// GPUs by their numbers.
    Gpus(Vec<usize>),
}

impl DeviceList {
    /// What each is called, in the order of the ranks: `cpu`, or `cpu:0`, `cpu:1`, …; `cuda:n`.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Processor { ranks: 1 } => vec!["cpu".to_owned()],
            Self::Processor { ranks } => (0..*ranks).map(|rank| format!("cpu:{rank}")).collect(),
            Self::Gpus(ordinals) => ordinals.iter().map(|ordinal| format!("cuda:{ordinal}")).collect(),
        }
    }
}

impl FromStr for DeviceList {
    type Err = EngineError;

    /// `cpu`, `cpu×n` (or `cpuxn`), `cuda:n`, `cuda:n,m,…`. `INVALID_ARGUMENT` for anything else, and for a GPU that is named twice.
    fn from_str(text: &str) -> Result<Self> {
        let refused = |problem: &str| {
            EngineError::invalid(format!("device {text}: {problem}; expected cpu, cpu×2, cuda:0 or cuda:0,1"))
        };
        if text == "cpu" {
            return Ok(Self::Processor { ranks: 1 });
        }
        if let Some(count) = text.strip_prefix("cpu×").or_else(|| text.strip_prefix("cpux")) {
            return match count.parse() {
                Ok(ranks) if (1..=MOST_PROCESSOR_RANKS).contains(&ranks) => Ok(Self::Processor { ranks }),
                _ => Err(refused(&format!("`{count}` is no number of ranks from 1 to {MOST_PROCESSOR_RANKS}"))),
            };
        }
        let Some(numbers) = text.strip_prefix("cuda:") else { return Err(refused("no such device")) };
        let mut ordinals = Vec::new();
        for number in numbers.split(',') {
            let ordinal = number.parse().map_err(|_| refused(&format!("`{number}` is no number of a GPU")))?;
            if ordinals.contains(&ordinal) {
                return Err(refused(&format!("GPU {ordinal} is named twice")));
            }
            ordinals.push(ordinal);
        }
        Ok(Self::Gpus(ordinals))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    #[test]
    fn lists_and_names() {
        let names = |text: &str| text.parse::<DeviceList>().unwrap().names();
        assert_eq!(names("cpu"), ["cpu"]);
        assert_eq!(names("cpu×2"), ["cpu:0", "cpu:1"]);
        assert_eq!(names("cpux3"), ["cpu:0", "cpu:1", "cpu:2"]);
        assert_eq!(names("cuda:1"), ["cuda:1"]);
        assert_eq!(names("cuda:1,0"), ["cuda:1", "cuda:0"]);
    }

    #[test]
    fn what_names_no_devices_is_refused() {
        for (text, problem) in [
            ("tpu", "no such device"),
            ("cpux0", "`0` is no number of ranks"),
            ("cpu×two", "`two`"),
            ("cuda:", "`` is no number"),
            ("cuda:0,,1", "`` is no number"),
            ("cuda:0,1,0", "GPU 0 is named twice"),
        ] {
            let error = text.parse::<DeviceList>().unwrap_err();
            assert!(error.code == ErrorCode::InvalidArgument && error.message.contains(problem), "{text}: {error}");
        }
    }
}
