//! Which evaluation was the best, and when to stop waiting for a better one; see Trainer's `_determine_best_metric` and `EarlyStoppingCallback`.

use std::str::FromStr;

use super::config::TrainConfig;
use super::events::EvaluationResult;
use crate::error::{EngineError, Result};

/// The loss that decides. Lower is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BestModelMetric {
    /// [`EvaluationResult::trainer_loss`]: what transformers' Trainer calls `eval_loss`.
    #[default]
    EvalLoss,
    /// [`EvaluationResult::loss`]: per label token, whatever the batches are.
    EvalTokenLoss,
}

impl FromStr for BestModelMetric {
    type Err = EngineError;

    /// `eval_loss` or `eval_token_loss`; `eval_` may be left out, as in Trainer. `INVALID_ARGUMENT` for anything else.
    fn from_str(name: &str) -> Result<Self> {
        match name.strip_prefix("eval_").unwrap_or(name) {
            "loss" => Ok(Self::EvalLoss),
            "token_loss" => Ok(Self::EvalTokenLoss),
            _ => Err(EngineError::invalid(format!(
                "metric_for_best_model is `{name}`; expected eval_loss or eval_token_loss"
            ))),
        }
    }
}

/// The evaluations of a run so far.
#[derive(Clone, Debug)]
pub(super) struct BestModel {
    metric: BestModelMetric,
    patience: Option<u64>,
    threshold: f64,
    best: Option<f64>,
    /// Evaluations in a row that were not better by more than the threshold.
    waited: u64,
}

impl BestModel {
    pub fn new(config: &TrainConfig) -> Self {
        Self {
            metric: config.metric_for_best_model,
            patience: config.early_stopping_patience,
            threshold: config.early_stopping_threshold,
            best: None,
            waited: 0,
        }
    }

    /// The best loss so far, and how many evaluations in a row were no improvement.
    pub fn state(&self) -> (Option<f64>, u64) {
        (self.best, self.waited)
    }

    /// Goes back to what [`Self::state`] gave.
    pub fn restore(&mut self, (best, waited): (Option<f64>, u64)) {
        (self.best, self.waited) = (best, waited);
    }

    /// Fills in whether an evaluation is the best so far, and whether the run ends with it.
    pub fn judge(&mut self, result: &mut EvaluationResult) {
        let found = match self.metric {
            BestModelMetric::EvalLoss => result.trainer_loss,
            BestModelMetric::EvalTokenLoss => result.loss,
        };
        // Compared with the best before: an improvement too small to go on waiting for is the best all the same.
        let improved = self.best.is_none_or(|best| found < best && best - found > self.threshold);
        self.waited = if improved { 0 } else { self.waited + 1 };
        result.best = self.best.is_none_or(|best| found < best);
        if result.best {
            self.best = Some(found);
        }
        result.stops = self.patience.is_some_and(|patience| self.waited >= patience);
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::tests::config;
    use super::*;

    fn verdicts(config: &TrainConfig, losses: &[f64]) -> Vec<(bool, bool)> {
        let mut model = BestModel::new(config);
        let judge = |loss: &f64| {
            let mut result = EvaluationResult { trainer_loss: *loss, loss: -loss, ..EvaluationResult::default() };
            model.judge(&mut result);
            (result.best, result.stops)
        };
        losses.iter().map(judge).collect()
    }

    /// Of losses that fall, rise, fall a little and stay.
    #[test]
    fn the_best_is_strictly_lower_and_patience_counts_small_improvements_as_none() {
        let losses = [3.0, 2.0, 2.5, 1.95, 1.95, 1.0];
        let best = |config: &TrainConfig| verdicts(config, &losses).iter().map(|(best, _)| *best).collect::<Vec<_>>();
        assert_eq!(best(&config()), [true, true, false, true, false, true]);
        let by_token = TrainConfig { metric_for_best_model: BestModelMetric::EvalTokenLoss, ..config() };
        assert_eq!(best(&by_token), [true, false, false, false, false, false]);
        let stops = |patience, threshold| {
            let config = TrainConfig {
                early_stopping_patience: Some(patience),
                early_stopping_threshold: threshold,
                ..config()
            };
            verdicts(&config, &losses).iter().position(|(_, stops)| *stops)
        };
        assert_eq!(stops(1, 0.0), Some(2));
        assert_eq!(stops(2, 0.0), None);
        assert_eq!(stops(2, 0.1), Some(3));
        assert_eq!(stops(4, 0.1), None);
    }

    #[test]
    fn names_are_trainers() {
        for name in ["eval_loss", "loss"] {
            assert_eq!(name.parse::<BestModelMetric>().unwrap(), BestModelMetric::EvalLoss);
        }
        assert_eq!("eval_token_loss".parse::<BestModelMetric>().unwrap(), BestModelMetric::EvalTokenLoss);
        assert!("accuracy".parse::<BestModelMetric>().unwrap_err().message.contains("`accuracy`; expected eval_loss"));
    }
}
