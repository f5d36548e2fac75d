//! The shapes that learning rates can have, by transformers' names and with its `lr_scheduler_kwargs`.

use std::str::FromStr;

use crate::error::{EngineError, Result};

/// A lowest rate: absolute, or as a share of the learning rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MinLr {
    Rate(f64),
    Share(f64),
}

/// How `warmup_stable_decay` rises and falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slope {
    Linear,
    Cosine,
    OneMinusSqrt,
}

/// The shapes a schedule can have. All but `Constant` begin with the warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LrSchedulerType {
    /// Down to 0 at the last step.
    Linear,
    /// Down along cosine waves; half a one ends at 0.
    Cosine {
        num_cycles: f64,
    },
    /// Half a cosine down to 0, so many times.
    CosineWithRestarts {
        num_cycles: f64,
    },
    /// Down to `min` instead of 0.
    CosineWithMinLr {
        num_cycles: f64,
        min: MinLr,
    },
    /// One step ahead of that; the warm-up begins above 0, at `warmup_lr_rate` of the learning rate where that is there.
    CosineWarmupWithMinLr {
        num_cycles: f64,
        min: MinLr,
        warmup_lr_rate: Option<f64>,
    },
    /// Down to the rate `lr_end` along a polynomial.
    Polynomial {
        lr_end: f64,
        power: f64,
    },
    /// No warm-up.
    Constant,
    ConstantWithWarmup,
    /// Down with the square root of the steps over `timescale`; the warm-up's steps, or 10,000 without one, where there is none.
    InverseSqrt {
        timescale: Option<f64>,
    },
    /// Constant up to the last `num_decay_steps` steps, or for `num_stable_steps`.
    WarmupStableDecay(StableDecay),
}

/// Settings of [`LrSchedulerType::WarmupStableDecay`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StableDecay {
    pub num_decay_steps: u64,
    pub num_stable_steps: Option<u64>,
    pub warmup_type: Slope,
    pub decay_type: Slope,
    /// Share of the learning rate where the warm-up begins and the decay ends.
    pub min_lr_ratio: f64,
    /// Of a decay along a cosine.
    pub num_cycles: f64,
}

/// `lr_scheduler_kwargs`: what is absent has transformers' default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LrSchedulerKwargs {
    pub num_cycles: Option<f64>,
    pub power: Option<f64>,
    pub lr_end: Option<f64>,
    pub timescale: Option<f64>,
    pub min_lr: Option<f64>,
    pub min_lr_rate: Option<f64>,
    pub warmup_lr_rate: Option<f64>,
    pub num_decay_steps: Option<u64>,
    pub num_stable_steps: Option<u64>,
    pub warmup_type: Option<String>,
    pub decay_type: Option<String>,
    pub min_lr_ratio: Option<f64>,
}

/// Names, and the kwargs that each takes.
const TYPES: [(&str, &[&str]); 10] = [
    ("linear", &[]),
    ("cosine", &["num_cycles"]),
    ("cosine_with_restarts", &["num_cycles"]),
    ("cosine_with_min_lr", &["num_cycles", "min_lr", "min_lr_rate"]),
    ("cosine_warmup_with_min_lr", &["num_cycles", "min_lr", "min_lr_rate", "warmup_lr_rate"]),
    ("polynomial", &["lr_end", "power"]),
    ("constant", &[]),
    ("constant_with_warmup", &[]),
    ("inverse_sqrt", &["timescale"]),
    (
        "warmup_stable_decay",
        &["num_decay_steps", "num_stable_steps", "warmup_type", "decay_type", "min_lr_ratio", "num_cycles"],
    ),
];

impl LrSchedulerType {
    /// A shape by its name.
    ///
    /// Errors: `INVALID_ARGUMENT` for an unknown name, and for kwargs that it does not take, needs, or cannot work with.
    pub fn new(name: &str, kwargs: &LrSchedulerKwargs) -> Result<Self> {
        let Some((_, taken)) = TYPES.iter().find(|(known, _)| *known == name) else {
            let known = TYPES.map(|(known, _)| known).join(", ");
            return Err(EngineError::invalid(format!("lr_scheduler_type is `{name}`; expected one of {known}")));
        };
        let unused = kwargs.given().into_iter().find(|given| !taken.contains(given));
        if let Some(given) = unused {
            let expected = if taken.is_empty() { "nothing".to_owned() } else { taken.join(", ") };
            return Err(EngineError::invalid(format!(
                "lr_scheduler_kwargs has {given}; expected {expected} with lr_scheduler_type `{name}`"
            )));
        }
        kwargs.check()?;
        let cycles = |default: f64| kwargs.num_cycles.unwrap_or(default);
        Ok(match name {
            "linear" => Self::Linear,
            "cosine" => Self::Cosine { num_cycles: cycles(0.5) },
            "cosine_with_restarts" => Self::CosineWithRestarts { num_cycles: cycles(1.0) },
            "cosine_with_min_lr" => Self::CosineWithMinLr { num_cycles: cycles(0.5), min: kwargs.min()? },
            "cosine_warmup_with_min_lr" => Self::CosineWarmupWithMinLr {
                num_cycles: cycles(0.5),
                min: kwargs.min()?,
                warmup_lr_rate: kwargs.warmup_lr_rate,
            },
            "polynomial" => {
                Self::Polynomial { lr_end: kwargs.lr_end.unwrap_or(1e-7), power: kwargs.power.unwrap_or(1.0) }
            }
            "constant" => Self::Constant,
            "constant_with_warmup" => Self::ConstantWithWarmup,
            "inverse_sqrt" => Self::InverseSqrt { timescale: kwargs.timescale },
            _ => Self::WarmupStableDecay(StableDecay {
                num_decay_steps: kwargs.num_decay_steps.ok_or_else(|| {
                    EngineError::invalid("lr_scheduler_kwargs lacks num_decay_steps, which warmup_stable_decay needs")
                })?,
                num_stable_steps: kwargs.num_stable_steps,
                warmup_type: slope("warmup_type", kwargs.warmup_type.as_deref(), Slope::Linear)?,
                decay_type: slope("decay_type", kwargs.decay_type.as_deref(), Slope::Cosine)?,
                min_lr_ratio: kwargs.min_lr_ratio.unwrap_or(0.0),
                num_cycles: cycles(0.5),
            }),
        })
    }

    /// `INVALID_ARGUMENT` where the schedule would end above where it begins.
    pub(super) fn check_rate(&self, learning_rate: f64) -> Result<()> {
        let (name, lowest) = match *self {
            Self::Polynomial { lr_end, .. } => ("lr_end", lr_end),
            Self::CosineWithMinLr { min: MinLr::Rate(rate), .. } => ("min_lr", rate),
            Self::CosineWarmupWithMinLr { min: MinLr::Rate(rate), .. } => ("min_lr", rate),
            _ => return Ok(()),
        };
        if lowest < learning_rate {
            return Ok(());
        }
        Err(EngineError::invalid(format!("{name} is {lowest}; expected less than learning_rate, {learning_rate}")))
    }
}

impl FromStr for LrSchedulerType {
    type Err = EngineError;

    /// A shape with transformers' defaults.
    fn from_str(name: &str) -> Result<Self> {
        Self::new(name, &LrSchedulerKwargs::default())
    }
}

impl LrSchedulerKwargs {
    fn numbers(&self) -> [(&'static str, Option<f64>); 8] {
        [
            ("num_cycles", self.num_cycles),
            ("power", self.power),
            ("lr_end", self.lr_end),
            ("timescale", self.timescale),
            ("min_lr", self.min_lr),
            ("min_lr_rate", self.min_lr_rate),
            ("warmup_lr_rate", self.warmup_lr_rate),
            ("min_lr_ratio", self.min_lr_ratio),
        ]
    }

    /// Names of what is there.
    fn given(&self) -> Vec<&'static str> {
        let others = [
            ("num_decay_steps", self.num_decay_steps.is_some()),
            ("num_stable_steps", self.num_stable_steps.is_some()),
            ("warmup_type", self.warmup_type.is_some()),
            ("decay_type", self.decay_type.is_some()),
        ];
        let numbers = self.numbers().map(|(name, value)| (name, value.is_some()));
        numbers.into_iter().chain(others).filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }

    fn check(&self) -> Result<()> {
        for (name, value) in self.numbers() {
            let Some(value) = value else { continue };
            let (holds, expected) = match name {
                "timescale" => (value.is_finite() && value > 0.0, "a finite number above 0"),
                "min_lr_rate" | "warmup_lr_rate" | "min_lr_ratio" => {
                    ((0.0..=1.0).contains(&value), "a share between 0 and 1")
                }
                _ => (value.is_finite() && value >= 0.0, "a finite number of at least 0"),
            };
            if !holds {
                return Err(EngineError::invalid(format!("{name} is {value}; expected {expected}")));
            }
        }
        Ok(())
    }

    fn min(&self) -> Result<MinLr> {
        match (self.min_lr, self.min_lr_rate) {
            (Some(rate), None) => Ok(MinLr::Rate(rate)),
            (None, Some(share)) => Ok(MinLr::Share(share)),
            (found, _) => Err(EngineError::invalid(format!(
                "lr_scheduler_kwargs has {} of min_lr and min_lr_rate; expected one",
                if found.is_some() { "both" } else { "none" }
            ))),
        }
    }
}

fn slope(name: &str, found: Option<&str>, default: Slope) -> Result<Slope> {
    match found {
        None => Ok(default),
        Some("linear") => Ok(Slope::Linear),
        Some("cosine") => Ok(Slope::Cosine),
        Some("1-sqrt") => Ok(Slope::OneMinusSqrt),
        Some(other) => Err(EngineError::invalid(format!("{name} is `{other}`; expected linear, cosine or 1-sqrt"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let message = "polinomial".parse::<LrSchedulerType>().unwrap_err().message;
        assert!(message.contains("`polinomial`") && message.contains("polynomial"), "{message}");
    }

    #[test]
    fn kwargs_have_transformers_defaults() {
        let parsed = |name: &str| name.parse::<LrSchedulerType>().unwrap();
        assert_eq!(parsed("cosine"), LrSchedulerType::Cosine { num_cycles: 0.5 });
        assert_eq!(parsed("cosine_with_restarts"), LrSchedulerType::CosineWithRestarts { num_cycles: 1.0 });
        assert_eq!(parsed("polynomial"), LrSchedulerType::Polynomial { lr_end: 1e-7, power: 1.0 });
        let kwargs = LrSchedulerKwargs { num_decay_steps: Some(9), ..LrSchedulerKwargs::default() };
        let stable = LrSchedulerType::new("warmup_stable_decay", &kwargs).unwrap();
        let expected = StableDecay {
            num_decay_steps: 9,
            num_stable_steps: None,
            warmup_type: Slope::Linear,
            decay_type: Slope::Cosine,
            min_lr_ratio: 0.0,
            num_cycles: 0.5,
        };
        assert_eq!(stable, LrSchedulerType::WarmupStableDecay(expected));
    }

    #[test]
    fn kwargs_that_do_not_fit_are_refused_by_name() {
        let none = LrSchedulerKwargs::default;
        let decay = LrSchedulerKwargs { num_decay_steps: Some(3), ..none() };
        let cases = [
            ("linear", LrSchedulerKwargs { num_cycles: Some(1.0), ..none() }, "num_cycles; expected nothing"),
            ("cosine", LrSchedulerKwargs { power: Some(1.0), ..none() }, "power; expected num_cycles"),
            ("cosine", LrSchedulerKwargs { num_cycles: Some(f64::NAN), ..none() }, "num_cycles is NaN"),
            ("inverse_sqrt", LrSchedulerKwargs { timescale: Some(0.0), ..none() }, "timescale is 0"),
            ("polynomial", LrSchedulerKwargs { warmup_type: Some("linear".into()), ..none() }, "warmup_type"),
            ("warmup_stable_decay", none(), "lacks num_decay_steps"),
            ("warmup_stable_decay", LrSchedulerKwargs { decay_type: Some("sine".into()), ..decay.clone() }, "`sine`"),
            ("warmup_stable_decay", LrSchedulerKwargs { min_lr_ratio: Some(1.5), ..decay }, "min_lr_ratio is 1.5"),
            ("cosine_with_min_lr", none(), "none of min_lr and min_lr_rate"),
            (
                "cosine_with_min_lr",
                LrSchedulerKwargs { min_lr: Some(1e-5), min_lr_rate: Some(0.1), ..none() },
                "both of min_lr and min_lr_rate",
            ),
        ];
        for (name, kwargs, expected) in cases {
            let message = LrSchedulerType::new(name, &kwargs).unwrap_err().message;
            assert!(message.contains(expected), "{name}: {message}");
        }
        let end = LrSchedulerType::Polynomial { lr_end: 1e-3, power: 1.0 };
        assert!(end.check_rate(2e-3).is_ok());
        assert!(end.check_rate(1e-3).unwrap_err().message.starts_with("lr_end is 0.001; expected less than"));
    }
}
