//! What the losses of a step's micro-batches are divided by.

use std::str::FromStr;

use crate::error::{EngineError, Result};

/// How a step's loss is made of its micro-batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LossNormalization {
    /// Mean over the label tokens of the whole accumulation group, as transformers' Trainer with models whose loss knows their number.
    #[default]
    Tokens,
    /// Mean of the micro-batches' means, as Trainer with models that average themselves, such as Baichuan's own code. Depends on how examples are
    /// batched.
    MicrobatchMean,
}

impl LossNormalization {
    /// What the sum of a micro-batch's losses is divided by. A micro-batch without labels has a sum of zero.
    pub(super) fn divisor(self, batch_labels: u64, group_labels: u64, micro_batches: usize) -> f64 {
        match self {
            Self::Tokens => group_labels as f64,
            Self::MicrobatchMean => batch_labels.max(1) as f64 * micro_batches as f64,
        }
    }
}

impl FromStr for LossNormalization {
    type Err = EngineError;

    /// `tokens` or `microbatch_mean`. `INVALID_ARGUMENT` for anything else.
    fn from_str(name: &str) -> Result<Self> {
        match name {
            "tokens" => Ok(Self::Tokens),
            "microbatch_mean" => Ok(Self::MicrobatchMean),
            _ => {
                Err(EngineError::invalid(format!("loss_normalization is `{name}`; expected tokens or microbatch_mean")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisors() {
        let tokens: LossNormalization = "tokens".parse().unwrap();
        let means: LossNormalization = "microbatch_mean".parse().unwrap();
        assert_eq!((tokens.divisor(3, 20, 4), means.divisor(3, 20, 4), means.divisor(0, 20, 4)), (20.0, 12.0, 4.0));
        assert!("mean".parse::<LossNormalization>().unwrap_err().message.contains("expected tokens"));
    }
}
