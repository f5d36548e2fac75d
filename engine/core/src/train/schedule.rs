//! Learning rates over the steps, as transformers' `optimization.py`.

use std::str::FromStr;

use crate::error::{EngineError, Result};

/// The shapes a schedule can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LrSchedulerType {
    /// Warm-up, then down to 0 at the last step.
    Linear,
    /// Warm-up, then half a cosine down to 0.
    Cosine,
    /// No warm-up.
    Constant,
    ConstantWithWarmup,
}

impl FromStr for LrSchedulerType {
    type Err = EngineError;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "linear" => Ok(Self::Linear),
            "cosine" => Ok(Self::Cosine),
            "constant" => Ok(Self::Constant),
            "constant_with_warmup" => Ok(Self::ConstantWithWarmup),
            _ => Err(EngineError::invalid(format!(
                "lr_scheduler_type is `{name}`; expected linear, cosine, constant or constant_with_warmup"
            ))),
        }
    }
}

/// The learning rate of every step of one run.
#[derive(Clone, Copy, Debug)]
pub struct LrSchedule {
    kind: LrSchedulerType,
    learning_rate: f64,
    warmup_steps: u64,
    max_steps: u64,
}

impl LrSchedule {
    /// `warmup_steps` below 1 is a share of `max_steps`, rounded up, as `TrainingArguments.get_warmup_steps`.
    pub fn new(kind: LrSchedulerType, learning_rate: f64, warmup_steps: f64, max_steps: u64) -> Self {
        let steps = if warmup_steps < 1.0 { (max_steps as f64 * warmup_steps).ceil() } else { warmup_steps.trunc() };
        Self { kind, learning_rate, warmup_steps: steps as u64, max_steps }
    }

    /// The rate of a step, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        self.learning_rate * self.factor(step)
    }

    fn factor(&self, step: u64) -> f64 {
        let (warmup, all) = (self.warmup_steps, self.max_steps);
        if self.kind == LrSchedulerType::Constant {
            return 1.0;
        }
        if step < warmup {
            return step as f64 / warmup.max(1) as f64;
        }
        let length = all.saturating_sub(warmup).max(1) as f64;
        match self.kind {
            LrSchedulerType::Linear => (all as f64 - step as f64).max(0.0) / length,
            LrSchedulerType::Cosine => {
                let progress = (step - warmup) as f64 / length;
                (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
            }
            LrSchedulerType::Constant | LrSchedulerType::ConstantWithWarmup => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ```python
    /// from transformers import get_scheduler  # 5.23.0
    /// o = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    /// s = get_scheduler(kind, o, num_warmup_steps=3, num_training_steps=10)
    /// for _ in range(11): print(s.get_last_lr()[0]); o.step(); s.step()
    /// ```
    #[test]
    fn rates_equal_transformers() {
        let third = 1.0 / 3.0;
        let sevenths = |n: f64| n / 7.0;
        let linear: Vec<f64> =
            [0.0, third, 2.0 * third].into_iter().chain((0..8).rev().map(|n| sevenths(n as f64))).collect();
        let cosine = [
            0.0,
            third,
            2.0 * third,
            1.0,
            0.950_484_433_951_209_5,
            0.811_744_900_929_366_8,
            0.611_260_466_978_157_2,
            0.388_739_533_021_842_83,
            0.188_255_099_070_633_26,
            0.049_515_566_048_790_48,
            0.0,
        ];
        let warm = [0.0, third, 2.0 * third, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
        let cases = [
            (LrSchedulerType::Linear, linear.as_slice()),
            (LrSchedulerType::Cosine, &cosine),
            (LrSchedulerType::Constant, &[1.0; 11]),
            (LrSchedulerType::ConstantWithWarmup, &warm),
        ];
        for (kind, expected) in cases {
            let schedule = LrSchedule::new(kind, 1.0, 3.0, 10);
            for (step, expected) in expected.iter().enumerate() {
                let found = schedule.at(step as u64);
                assert!((found - expected).abs() < 1e-15, "{kind:?} at {step}: {found}, expected {expected}");
            }
        }
    }

    #[test]
    fn warm_up_below_one_is_a_share_rounded_up() {
        let schedule = LrSchedule::new(LrSchedulerType::ConstantWithWarmup, 2.0, 0.25, 10);
        assert_eq!([0, 1, 2, 3].map(|step| schedule.at(step)), [0.0, 2.0 / 3.0, 4.0 / 3.0, 2.0]);
        assert_eq!(LrSchedule::new(LrSchedulerType::Linear, 1.0, 0.0, 4).at(0), 1.0);
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let message = "polynomial".parse::<LrSchedulerType>().unwrap_err().message;
        assert!(message.contains("`polynomial`") && message.contains("constant_with_warmup"), "{message}");
    }
}
