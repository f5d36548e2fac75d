//! Learning rates over the steps, as transformers' `optimization.py`.

use std::f64::consts::PI;

use super::scheduler_type::{LrSchedulerType, MinLr, Slope, StableDecay};

/// Time scale of an inverse square root without a warm-up.
const TIMESCALE: f64 = 10_000.0;

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
        let [step, warmup, all] = [step, self.warmup_steps, self.max_steps].map(|steps| steps as f64);
        if self.kind == LrSchedulerType::Constant {
            return 1.0;
        }
        if step < warmup {
            return self.rising(step, warmup);
        }
        let length = (all - warmup).max(1.0);
        let progress = (step - warmup) / length;
        match self.kind {
            LrSchedulerType::Constant | LrSchedulerType::ConstantWithWarmup => 1.0,
            LrSchedulerType::Linear => (all - step).max(0.0) / length,
            LrSchedulerType::Cosine { num_cycles } => waves(num_cycles, progress).max(0.0),
            LrSchedulerType::CosineWithRestarts { .. } if progress >= 1.0 => 0.0,
            LrSchedulerType::CosineWithRestarts { num_cycles } => half_wave((num_cycles * progress) % 1.0),
            LrSchedulerType::CosineWithMinLr { num_cycles, min } => {
                above(self.share(min), waves(num_cycles, progress)).max(0.0)
            }
            LrSchedulerType::CosineWarmupWithMinLr { num_cycles, min, .. } => {
                above(self.share(min), waves(num_cycles, (step - warmup + 1.0) / length)).max(0.0)
            }
            LrSchedulerType::Polynomial { lr_end, .. } if step > all => lr_end / self.learning_rate,
            LrSchedulerType::Polynomial { lr_end, power } => {
                ((self.learning_rate - lr_end) * (1.0 - progress).powf(power) + lr_end) / self.learning_rate
            }
            LrSchedulerType::InverseSqrt { timescale } => {
                let timescale = timescale.unwrap_or(if warmup > 0.0 { warmup } else { TIMESCALE });
                1.0 / ((step + timescale - warmup) / timescale).sqrt()
            }
            LrSchedulerType::WarmupStableDecay(settings) => stable_decay(settings, step - warmup, all - warmup),
        }
    }

    /// In the warm-up.
    fn rising(&self, step: f64, warmup: f64) -> f64 {
        match self.kind {
            LrSchedulerType::CosineWarmupWithMinLr { warmup_lr_rate: Some(first), .. } => {
                above(first, step / (warmup - 1.0).max(1.0))
            }
            LrSchedulerType::CosineWarmupWithMinLr { .. } => (step + 1.0) / warmup,
            LrSchedulerType::WarmupStableDecay(StableDecay { warmup_type, min_lr_ratio, .. }) => {
                let progress = step / warmup;
                let factor = match warmup_type {
                    Slope::Linear => progress,
                    Slope::Cosine => 0.5 * (1.0 - (PI * progress).cos()),
                    Slope::OneMinusSqrt => 1.0 - (1.0 - progress).sqrt(),
                };
                above(min_lr_ratio, factor)
            }
            _ => step / warmup,
        }
    }

    fn share(&self, min: MinLr) -> f64 {
        match min {
            MinLr::Rate(rate) => rate / self.learning_rate,
            MinLr::Share(share) => share,
        }
    }
}

/// From 1 down to 0 and up again so many times.
fn waves(cycles: f64, progress: f64) -> f64 {
    0.5 * (1.0 + (PI * cycles * 2.0 * progress).cos())
}

/// From 1 down to 0.
fn half_wave(progress: f64) -> f64 {
    (0.5 * (1.0 + (PI * progress).cos())).max(0.0)
}

/// A factor between 0 and 1, between `lowest` and 1.
fn above(lowest: f64, factor: f64) -> f64 {
    factor * (1.0 - lowest) + lowest
}

/// `step` and `all` count from the end of the warm-up.
fn stable_decay(settings: StableDecay, step: f64, all: f64) -> f64 {
    let decay = settings.num_decay_steps as f64;
    let stable = settings.num_stable_steps.map_or(all - decay, |steps| steps as f64);
    if step < stable {
        return 1.0;
    }
    if step >= stable + decay {
        return settings.min_lr_ratio;
    }
    let progress = (step - stable) / decay;
    let factor = match settings.decay_type {
        Slope::Linear => 1.0 - progress,
        Slope::Cosine => waves(settings.num_cycles, progress),
        Slope::OneMinusSqrt => 1.0 - progress.sqrt(),
    };
    above(settings.min_lr_ratio, factor).max(0.0)
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
            (LrSchedulerType::Cosine { num_cycles: 0.5 }, &cosine),
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

    /// Steps that a run never asks for, and warm-ups as long as the run: no rate is ever not a number.
    #[test]
    fn rates_are_finite_everywhere() {
        let stable = |num_stable_steps| {
            LrSchedulerType::WarmupStableDecay(StableDecay {
                num_decay_steps: 0,
                num_stable_steps,
                warmup_type: Slope::OneMinusSqrt,
                decay_type: Slope::Cosine,
                min_lr_ratio: 0.0,
                num_cycles: 0.5,
            })
        };
        let kinds = [
            LrSchedulerType::Linear,
            LrSchedulerType::CosineWithRestarts { num_cycles: 0.0 },
            LrSchedulerType::CosineWarmupWithMinLr {
                num_cycles: 0.5,
                min: MinLr::Rate(0.0),
                warmup_lr_rate: Some(0.5),
            },
            LrSchedulerType::Polynomial { lr_end: 0.0, power: 0.5 },
            LrSchedulerType::InverseSqrt { timescale: Some(1e-3) },
            stable(None),
            stable(Some(3)),
        ];
        for kind in kinds {
            for warmup in [0.0, 1.0, 10.0, 100.0] {
                for step in 0..=12 {
                    let rate = LrSchedule::new(kind, 0.5, warmup, 10).at(step);
                    assert!((0.0..0.5 + 1e-12).contains(&rate), "{kind:?}, warm-up {warmup}, step {step}: {rate}");
                }
            }
        }
    }
}
