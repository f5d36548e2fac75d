//! What a run knows beside its tensors.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::exact::{self, Exact};
use crate::train::evaluation::EvaluationSums;

/// What a run does next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// The next micro-batch of a step under way, or the first of the next step.
    Train(Option<Group>),
    /// The next batch of an evaluation.
    Evaluate(EvaluationSums),
    End,
}

/// A step under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Micro-batches of the epoch that are still to do, of all ranks.
    pub batches: Range<usize>,
    /// Of all of them.
    pub micro_batches: usize,
    /// Of this rank's.
    #[serde(with = "exact")]
    pub loss: f64,
    /// Of all ranks.
    pub tokens: u64,
    pub own_tokens: u64,
    /// Of all its micro-batches.
    pub label_tokens: u64,
    /// What `loss_normalization: tokens` divides by.
    pub divisor_tokens: u64,
    /// Why this rank's gradients are of no use. One rank alone ends the step at once, and of several none is written within a step.
    #[serde(skip)]
    pub failure: Option<String>,
}

/// A run between two pieces of its work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    /// Steps done, skipped ones included.
    pub global_step: u64,
    pub updates: u64,
    pub skipped_steps: u64,
    pub non_finite_steps: u64,
    /// The step after which was last evaluated.
    pub evaluated_step: Option<u64>,
    /// Of the loss, and the steps since it last moved.
    pub loss_scale: Option<(Exact, u64)>,
    pub best_loss: Option<Exact>,
    /// Evaluations in a row that were no improvement.
    pub waited_evaluations: u64,
    pub next: Activity,
}

impl RunState {
    /// Whether gradients are part of the state.
    pub fn is_in_step(&self) -> bool {
        matches!(self.next, Activity::Train(Some(_)))
    }
}
