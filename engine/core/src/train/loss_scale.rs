//! Loss scaling: gradients of activations in f16 are computed of a loss that is multiplied by a scale, so that small ones do not vanish, and
//! divided by it at the end. Where they overflow, the step is skipped and the scale is lowered; see torch's `GradScaler`.

use crate::error::{EngineError, ErrorCode, Result};

/// Lower scales than this cannot help: finite gradients do not overflow f16 by a factor of 2³².
const SMALLEST_SCALE: f64 = 1.0 / 65_536.0;

/// How the scale moves; the default is `GradScaler`'s.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScaling {
    /// Positive; powers of two change no digit of a gradient.
    pub initial_scale: f64,
    /// At least 1.
    pub growth_factor: f64,
    /// Above 0 and below 1.
    pub backoff_factor: f64,
    /// Steps without an overflow after which the scale grows; at least 1.
    pub growth_interval: u64,
}

impl Default for LossScaling {
    fn default() -> Self {
        Self { initial_scale: 65_536.0, growth_factor: 2.0, backoff_factor: 0.5, growth_interval: 2000 }
    }
}

impl LossScaling {
    /// `INVALID_ARGUMENT` for a value that cannot be worked with, by name.
    pub fn validate(&self) -> Result<()> {
        let Self { initial_scale, growth_factor, backoff_factor, growth_interval } = *self;
        let refused = |name: &str, found: f64, expected: &str| {
            Err(EngineError::invalid(format!("{name} is {found}; expected {expected}")))
        };
        if !(initial_scale > 0.0 && (initial_scale as f32).is_finite()) {
            return refused("initial_scale", initial_scale, "a finite number above 0");
        }
        if !(growth_factor.is_finite() && growth_factor >= 1.0) {
            return refused("growth_factor", growth_factor, "a finite number of at least 1");
        }
        if !(backoff_factor > 0.0 && backoff_factor < 1.0) {
            return refused("backoff_factor", backoff_factor, "a number above 0 and below 1");
        }
        if growth_interval == 0 {
            return refused("growth_interval", 0.0, "at least 1");
        }
        Ok(())
    }
}

/// The scale of a run.
#[derive(Clone, Debug)]
pub(super) struct LossScaler {
    settings: LossScaling,
    scale: f64,
    /// Steps without an overflow since the scale last moved.
    steps: u64,
}

impl LossScaler {
    pub fn new(settings: LossScaling) -> Self {
        Self { settings, scale: settings.initial_scale, steps: 0 }
    }

    /// The scale, and the steps without an overflow since it last moved.
    pub fn state(&self) -> (f64, u64) {
        (self.scale, self.steps)
    }

    /// Goes back to what [`Self::state`] gave.
    pub fn restore(&mut self, (scale, steps): (f64, u64)) {
        (self.scale, self.steps) = (scale, steps);
    }

    /// What the next step's loss is multiplied by.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// After a step whose gradients were finite.
    pub fn succeeded(&mut self) {
        self.steps += 1;
        if self.steps == self.settings.growth_interval {
            self.steps = 0;
            let grown = self.scale * self.settings.growth_factor;
            // Devices take it in f32.
            if (grown as f32).is_finite() {
                self.scale = grown;
            }
        }
    }

    /// After a step whose gradients were not.
    ///
    /// Errors: `NON_FINITE_LOSS` where a lower scale cannot help.
    pub fn overflowed(&mut self) -> Result<()> {
        self.steps = 0;
        if self.scale <= SMALLEST_SCALE {
            let scale = self.scale;
            let message = format!("the gradients are not finite even with the loss scaled by {scale:e}; use bf16");
            return Err(EngineError::new(ErrorCode::NonFiniteLoss, message));
        }
        self.scale *= self.settings.backoff_factor;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rule of torch's `_amp_update_scale_`: an overflow halves and starts the count anew, `growth_interval` steps without one double.
    #[test]
    fn the_scale_moves_by_torchs_rule() {
        let mut scaler =
            LossScaler::new(LossScaling { initial_scale: 8.0, growth_interval: 3, ..LossScaling::default() });
        let finite = [true, true, true, true, false, true, true, false, false, true, true, true, true];
        let expected = [8.0, 8.0, 16.0, 16.0, 8.0, 8.0, 8.0, 4.0, 2.0, 2.0, 2.0, 4.0, 4.0];
        for (finite, expected) in finite.into_iter().zip(expected) {
            if finite {
                scaler.succeeded();
            } else {
                scaler.overflowed().unwrap();
            }
            assert_eq!(scaler.scale(), expected);
        }
    }

    #[test]
    fn defaults_are_torchs_and_the_scale_has_bounds() {
        let mut scaler = LossScaler::new(LossScaling::default());
        assert_eq!(scaler.scale(), 65_536.0);
        for _ in 0..1999 {
            scaler.succeeded();
        }
        assert_eq!(scaler.scale(), 65_536.0);
        scaler.succeeded();
        assert_eq!(scaler.scale(), 131_072.0);
        for _ in 0..33 {
            scaler.overflowed().unwrap();
        }
        assert_eq!(scaler.scale(), SMALLEST_SCALE);
        assert_eq!(scaler.overflowed().unwrap_err().code, ErrorCode::NonFiniteLoss);

        let largest = f64::from(f32::MAX);
        let mut scaler =
            LossScaler::new(LossScaling { initial_scale: largest, growth_interval: 1, ..LossScaling::default() });
        scaler.succeeded();
        assert_eq!(scaler.scale(), largest);
    }

    #[test]
    fn values_that_cannot_be_worked_with_are_refused_by_name() {
        let good = LossScaling::default();
        good.validate().unwrap();
        let cases = [
            ("initial_scale", LossScaling { initial_scale: 0.0, ..good }),
            ("initial_scale", LossScaling { initial_scale: 1e39, ..good }),
            ("initial_scale", LossScaling { initial_scale: f64::NAN, ..good }),
            ("growth_factor", LossScaling { growth_factor: 0.5, ..good }),
            ("backoff_factor", LossScaling { backoff_factor: 1.0, ..good }),
            ("backoff_factor", LossScaling { backoff_factor: f64::NAN, ..good }),
            ("growth_interval", LossScaling { growth_interval: 0, ..good }),
        ];
        for (name, settings) in cases {
            let error = settings.validate().unwrap_err();
            assert!(error.message.starts_with(name) && error.message.contains("expected"), "{error}");
        }
    }
}
