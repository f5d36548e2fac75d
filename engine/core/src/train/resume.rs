//! Taking a run's state, going on from it, and ending a run early.

use std::sync::Arc;

use super::checkpoint::exact::Exact;
use super::checkpoint::{Activity, Checkpoint, HostTensors, ResumedFrom, RunState, Snapshot};
use super::evaluation::EvaluationSums;
use super::evaluation_share::EvaluationShares;
use super::loss_scale::LossScaler;
use super::trainer::{Phase, Trainer};
use crate::error::{EngineError, ErrorCode, Result};
use crate::model::Examples;
use crate::ops::Ops;

/// Name of a tensor in a checkpoint: the adapter that will be the run's result, if it is not the last step's.
const BEST_ADAPTER: &str = "best_adapter";

impl<O: Ops> Trainer<O> {
    /// Whether [`Self::checkpoint`] can be called now. One rank alone has its whole state between any two calls of [`Self::advance`]; of several, each
    /// has gradients of its own within a step, and there is nothing to go on from.
    pub fn can_checkpoint(&self) -> bool {
        let in_step =
            matches!(&self.phase, Phase::Begin(Activity::Train(Some(_))) | Phase::Active(Activity::Train(Some(_))));
        self.share.ranks() == 1 || !in_step
    }

    /// Copies what the run needs to go on, between two calls of [`Self::advance`], where [`Self::can_checkpoint`] says so. Any rank's is that of all;
    /// of several, an evaluation under way is begun anew by who goes on. Waits for the device.
    /// `spare`: an earlier snapshot of the run that is not needed any more; its memory is used again.
    ///
    /// Errors: `INVALID_ARGUMENT` once the run is over, or within a step of several ranks; what the device reports.
    pub fn checkpoint(&mut self, spare: Option<Snapshot>) -> Result<Snapshot> {
        if !self.can_checkpoint() {
            return Err(EngineError::invalid("a step of several devices is under way; take a checkpoint after it"));
        }
        let next = match &self.phase {
            // Each rank has the sums of its own batches.
            Phase::Begin(Activity::Evaluate(_)) | Phase::Active(Activity::Evaluate(_)) if self.share.ranks() > 1 => {
                Activity::Evaluate(EvaluationSums::default())
            }
            Phase::Begin(next) | Phase::Active(next) => next.clone(),
            Phase::Over => return Err(EngineError::invalid("the run is over; there is nothing to go on with")),
        };
        let (best_loss, waited_evaluations) = self.best_model.state();
        let state = RunState {
            global_step: self.global_step,
            updates: self.updates,
            skipped_steps: self.skipped_steps,
            non_finite_steps: self.non_finite_steps,
            evaluated_step: self.evaluated_step,
            loss_scale: self.scaler.as_ref().map(LossScaler::state).map(|(scale, steps)| (Exact(scale), steps)),
            best_loss: best_loss.map(Exact),
            waited_evaluations,
            next,
        };
        let mut tensors = HostTensors::in_memory_of(spare.map(|spare| spare.tensors));
        self.workspace.capture(state.is_in_step(), &mut tensors)?;
        if let Some(best) = &self.best_parameters {
            tensors.read(BEST_ADAPTER, best.len(), |values| {
                values.copy_from_slice(best);
                Ok(())
            })?;
        }
        Ok(Snapshot { identity: self.identity.clone(), state, tensors: tensors.finish() })
    }

    /// Makes a checkpoint due after the step under way and its evaluation. None follows where that is the run's last one.
    pub fn request_checkpoint(&mut self) {
        self.checkpoint_asked = true;
    }

    /// The step under way is the last one; between two steps, the one before; at the beginning, the first. Evaluation and best adapter follow as
    /// after `max_steps`. The schedule stays that of all steps.
    pub fn stop_after_step(&mut self) {
        let step = match &self.phase {
            Phase::Begin(Activity::Train(Some(_))) | Phase::Active(Activity::Train(Some(_))) => self.global_step + 1,
            _ => self.global_step.max(1),
        };
        self.last_step = self.last_step.min(step);
    }

    /// Goes on from a checkpoint, before the first call of [`Self::advance`] of a run that was made with the same arguments. The first rank
    /// reads all examples.
    ///
    /// Errors: `CHECKPOINT_MISMATCH` where settings, data, model or adapter are others, saying which; `CHECKPOINT_CORRUPT` for a state that such a
    /// run cannot be in.
    pub fn resume(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        if !matches!(self.phase, Phase::Begin(_)) || self.global_step > 0 {
            return Err(EngineError::internal("a run that has begun cannot go on from a checkpoint"));
        }
        let Checkpoint { run, state, tensors } = checkpoint;
        let differences = match self.share.rank() {
            0 => run.differences(self.identity.whole())?,
            // The ranks have the same settings and examples, and what the first refuses ends the run on all.
            _ => Vec::new(),
        };
        self.check(state)?;
        self.workspace.restore_all(state.is_in_step(), tensors)?;
        let len = self.workspace.adapter.layout.len();
        self.best_parameters = match tensors.has(BEST_ADAPTER) {
            true => Some(tensors.numbers(BEST_ADAPTER, len)?.to_vec()),
            false => None,
        };
        if let (Some(scaler), Some((Exact(scale), steps))) = (&mut self.scaler, state.loss_scale) {
            scaler.restore((scale, steps));
        }
        self.best_model.restore((state.best_loss.map(|Exact(loss)| loss), state.waited_evaluations));
        let RunState { global_step, updates, skipped_steps, non_finite_steps, evaluated_step, next, .. } =
            state.clone();
        (self.global_step, self.updates) = (global_step, updates);
        (self.skipped_steps, self.non_finite_steps, self.evaluated_step) =
            (skipped_steps, non_finite_steps, evaluated_step);
        let epoch = self.plan.epoch(global_step);
        self.order = (epoch, self.plan.order(epoch));
        self.saved_step = matches!(next, Activity::Train(None)).then_some(global_step);
        self.resumed = Some(ResumedFrom { global_step, differences });
        self.phase = Phase::Begin(next);
        Ok(())
    }

    /// What the run went on from.
    pub fn resumed(&self) -> Option<&ResumedFrom> {
        self.resumed.as_ref()
    }

    /// `CHECKPOINT_CORRUPT` for a state that no run with this plan comes into.
    fn check(&self, state: &RunState) -> Result<()> {
        let step = state.global_step;
        let fits = match &state.next {
            Activity::Train(None) => step < self.plan.max_steps(),
            Activity::Train(Some(group)) => {
                let whole = self.plan.batches(step);
                let left = &group.batches;
                // Of several ranks, see `can_checkpoint`.
                let begun = self.share.ranks() == 1
                    && whole.start < left.start
                    && left.start < left.end
                    && left.end == whole.end;
                step < self.plan.max_steps() && begun && group.micro_batches == whole.len()
            }
            Activity::Evaluate(sums) => {
                let rounds = |all: &Arc<dyn Examples>| EvaluationShares::new(&self.config, all.len()).rounds();
                let begun = self.evaluation.as_ref().is_some_and(|all| sums.rounds() < rounds(all));
                begun && (self.share.ranks() == 1 || sums.rounds() == 0) && step <= self.plan.max_steps()
            }
            Activity::End => step <= self.plan.max_steps(),
        };
        if fits && state.updates + state.skipped_steps == step {
            return Ok(());
        }
        let message = format!(
            "the checkpoint says {step} steps, {} updates and {} skipped ones, then {:?}; a run of {} steps cannot be there; go on from another checkpoint",
            state.updates,
            state.skipped_steps,
            state.next,
            self.plan.max_steps()
        );
        Err(EngineError::new(ErrorCode::CheckpointCorrupt, message))
    }
}
