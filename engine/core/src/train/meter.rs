//! Pace of a run: tokens per second and time left. Times are given as seconds since any origin, so that this file reads no clock.

/// Measures a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter {
    /// When the first step began.
    run_began: Option<f64>,
    step_began: f64,
    steps: u64,
}

/// Pace after a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pace {
    pub tokens_per_second: f64,
    pub eta_seconds: f64,
}

/// Shortest time that a step is taken to last; clocks can stand still between two readings.
const SHORTEST: f64 = 1e-9;

impl Meter {
    /// A step's first micro-batch begins.
    pub fn begin_step(&mut self, now: f64) {
        self.run_began.get_or_insert(now);
        self.step_began = now;
    }

    /// How long the step under way has taken.
    pub fn seconds_of_step(&self, now: f64) -> f64 {
        (now - self.step_began).max(SHORTEST)
    }

    /// A step of `tokens` tokens is done and `remaining` are left.
    pub fn end_step(&mut self, now: f64, tokens: u64, remaining: u64) -> Pace {
        self.steps += 1;
        let elapsed = (now - self.run_began.unwrap_or(self.step_began)).max(0.0);
        Pace {
            tokens_per_second: tokens as f64 / self.seconds_of_step(now),
            eta_seconds: elapsed / self.steps as f64 * remaining as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_of_the_step_and_time_left_at_the_mean_pace() {
        let mut meter = Meter::default();
        meter.begin_step(100.0);
        assert_eq!(meter.end_step(102.0, 50, 9), Pace { tokens_per_second: 25.0, eta_seconds: 18.0 });
        // An evaluation of 4 seconds counts for the time left, not for the rate.
        meter.begin_step(106.0);
        assert_eq!(meter.end_step(108.0, 80, 8), Pace { tokens_per_second: 40.0, eta_seconds: 32.0 });
        meter.begin_step(108.0);
        assert!(meter.end_step(108.0, 1, 0).tokens_per_second.is_finite());
    }
}
