//! The figures of one pass over the evaluation examples.

use serde::{Deserialize, Serialize};

use super::checkpoint::exact;
use super::events::EvaluationResult;
use crate::error::Result;

/// Sums over the batches of an evaluation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EvaluationSums {
    #[serde(with = "exact")]
    loss: f64,
    label_tokens: u64,
    /// Σ of each batch's mean loss times its examples.
    #[serde(with = "exact")]
    weighted_means: f64,
    examples: u64,
    /// Rounds done.
    rounds: usize,
}

impl EvaluationSums {
    /// Rounds done; the next one has this number.
    pub fn rounds(&self) -> usize {
        self.rounds
    }

    /// Ends a round in which there was a batch of so many examples, or none that count. `mean`: what Trainer takes for the batch's mean.
    pub fn add(&mut self, loss_sum: f64, label_tokens: usize, examples: usize, mean: f64) {
        self.loss += loss_sum;
        self.label_tokens += label_tokens as u64;
        self.weighted_means += mean * examples as f64;
        self.examples += examples as u64;
        self.rounds += 1;
    }

    /// Of several ranks together, as `sum` adds their numbers.
    pub fn over_ranks(&self, sum: impl Fn([f64; 4]) -> Result<[f64; 4]>) -> Result<Self> {
        let own = [self.loss, self.label_tokens as f64, self.weighted_means, self.examples as f64];
        let [loss, label_tokens, weighted_means, examples] = sum(own)?;
        Ok(Self { loss, label_tokens: label_tokens as u64, weighted_means, examples: examples as u64, ..self.clone() })
    }

    /// The result after at least one batch.
    pub fn result(&self, global_step: u64, epoch: f64) -> EvaluationResult {
        EvaluationResult {
            global_step,
            epoch,
            loss: self.loss / self.label_tokens as f64,
            trainer_loss: self.weighted_means / self.examples as f64,
            label_tokens: self.label_tokens,
            examples: self.examples,
            ..EvaluationResult::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two batches of two and one example: Trainer repeats the means 2 and 5 for their examples, whatever their label tokens.
    #[test]
    fn both_means() {
        let mut sums = EvaluationSums::default();
        sums.add(20.0, 10, 2, 2.0);
        assert_eq!(sums.rounds(), 1);
        sums.add(10.0, 2, 1, 5.0);
        let expected = EvaluationResult {
            global_step: 7,
            epoch: 0.5,
            loss: 30.0 / 12.0,
            trainer_loss: (2.0 + 2.0 + 5.0) / 3.0,
            label_tokens: 12,
            examples: 3,
            ..EvaluationResult::default()
        };
        assert_eq!(sums.result(7, 0.5), expected);
        let twice = sums.over_ranks(|own| Ok(own.map(|number| 2.0 * number))).unwrap().result(7, 0.5);
        assert_eq!(twice, EvaluationResult { label_tokens: 24, examples: 6, ..expected });
    }
}
