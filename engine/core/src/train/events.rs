//! What a run reports.

use super::estimate::TrainingEstimate;

/// One event of a run. The counterpart of `TrainingEvent` in `src/engine/engine.ts`, which adds what becomes of a run from outside: checkpoints,
/// `paused` and `cancelled`. A run is cancelled by not advancing it any more.
#[derive(Clone, Debug, PartialEq)]
pub enum TrainingEvent {
    /// The first event.
    Started(Box<TrainingEstimate>),
    /// An optimizer step was taken, or skipped.
    Step(TrainingStep),
    /// The evaluation examples were gone through.
    Evaluation(EvaluationResult),
    /// The last event.
    Finished,
}

/// One optimizer step. Field for field the `TrainingStep` of `src/engine/engine.ts`.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingStep {
    /// Steps done, this one included.
    pub global_step: u64,
    pub max_steps: u64,
    /// Epochs done after this step, fractional.
    pub epoch: f64,
    /// Mean negative log-likelihood per label token of the step, or as `loss_normalization` asks for; not finite where that broke.
    pub loss: f64,
    /// Global 2-norm before clipping; not finite where the step was skipped.
    pub grad_norm: f64,
    /// The rate this step used; one that was skipped leaves it to the next.
    pub learning_rate: f64,
    /// Tokens and labelled positions of this step, on all devices.
    pub tokens: u64,
    pub label_tokens: u64,
    /// Of this step, from the start of its first micro-batch; of all devices together.
    pub tokens_per_second: f64,
    /// Bytes the device has allocated now and at most; of several, the first.
    pub allocated_bytes: u64,
    pub peak_allocated_bytes: u64,
    /// Seconds to the end at the mean pace so far, evaluations included.
    pub eta_seconds: f64,
    /// Nothing was updated: the gradients overflowed f16, and the loss scale is lower from here on; or they or the loss are no finite numbers.
    pub skipped: bool,
    /// Steps skipped so far, this one included.
    pub skipped_steps: u64,
    /// What each device did, by rank.
    pub devices: Vec<DeviceStep>,
}

/// One device's part of an optimizer step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DeviceStep {
    /// Of its own tokens.
    pub tokens_per_second: f64,
    /// Bytes it has allocated now and at most.
    pub allocated_bytes: u64,
    pub peak_allocated_bytes: u64,
    /// Share of the step in which it did not compute because gradients were reduced, with waiting for slower devices; 0 of one device alone.
    pub communication_share: f64,
}

/// One pass over the evaluation examples. Field for field the `EvaluationResult` of `src/engine/engine.ts`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EvaluationResult {
    /// Steps done before it.
    pub global_step: u64,
    pub epoch: f64,
    /// Mean negative log-likelihood per label token.
    pub loss: f64,
    /// Mean of the batches' means, each repeated for its examples, as transformers' Trainer reports it.
    pub trainer_loss: f64,
    pub label_tokens: u64,
    pub examples: u64,
    /// The best after a step so far, by `metric_for_best_model`.
    pub best: bool,
    /// Early stopping: the run ends with it.
    pub stops: bool,
}

/// What one call of [`Trainer::advance`](super::Trainer::advance) did.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// A micro-batch was computed; its step or evaluation goes on.
    Pending,
    /// Something to report. At most one micro-batch was computed.
    Event(TrainingEvent),
    /// A checkpoint is to be taken now, by [`Trainer::checkpoint`](super::Trainer::checkpoint): between two steps, after the evaluation of the
    /// one before. Nothing was computed.
    CheckpointDue,
    /// The run had ended before, by [`TrainingEvent::Finished`] or by an error; nothing was computed.
    Finished,
}
