//! A run: one micro-batch after another, steps, evaluations, events.

use std::sync::Arc;
use std::time::Instant;

use super::best_model::BestModel;
use super::checkpoint::{Activity, Group, Identity, ModelIdentity, ResumedFrom};
use super::config::{Recompute, TrainConfig};
use super::estimate::{EstimateRequest, TrainingEstimate, estimate};
use super::evaluation::EvaluationSums;
use super::evaluation_share::EvaluationShares;
use super::events::{DeviceStep, Progress, TrainingEvent, TrainingStep};
use super::loss_scale::LossScaler;
use super::meter::Meter;
use super::order::EpochOrder;
use super::plan::TrainingPlan;
use super::schedule::LrSchedule;
use super::share::{Share, StepReport, largest};
use super::workspace::Workspace;
use crate::error::{EngineError, ErrorCode, Result};
use crate::lora::peft::PeftAdapter;
use crate::lora::{LoraAdapter, LoraConfig};
use crate::model::{BaseModel, Dropout, EmbeddingNoise, Examples, Keep};
use crate::ops::{AdamW, Ops};
use crate::ranks::Collective;

/// An adapter in training over a shared base model. Steps, losses and rates are those of transformers' Trainer with torch's AdamW.
///
/// Each call of [`Trainer::advance`] is one short piece of work, so that a device thread can interleave a run with generation and stop it
/// between two micro-batches by dropping it. All device memory is taken by [`Trainer::new`].
pub struct Trainer<O: Ops> {
    pub(super) ops: Arc<O>,
    pub(super) config: TrainConfig,
    pub(super) plan: TrainingPlan,
    schedule: LrSchedule,
    train: Arc<dyn Examples>,
    pub(super) evaluation: Option<Arc<dyn Examples>>,
    /// Before the workspace, so that it is dropped first: a device that waits for other ranks cannot give its memory back.
    pub(super) share: Share<O>,
    pub(super) workspace: Workspace<O>,
    estimate: TrainingEstimate,
    pub(super) identity: Arc<Identity>,
    meter: Meter,
    clock: Instant,
    /// Where activations are in f16.
    pub(super) scaler: Option<LossScaler>,
    /// Steps done, skipped ones included.
    pub(super) global_step: u64,
    /// The run ends after so many.
    pub(super) last_step: u64,
    /// Steps that were not skipped: optimizer and learning rate count these, as transformers' Trainer does.
    pub(super) updates: u64,
    /// Steps that were skipped, and those of them that no loss scale could have saved.
    pub(super) skipped_steps: u64,
    pub(super) non_finite_steps: u64,
    /// The step after which was last evaluated.
    pub(super) evaluated_step: Option<u64>,
    pub(super) best_model: BestModel,
    /// What the run's result will be, if it is not the last step's.
    pub(super) best_parameters: Option<Vec<O::Elem>>,
    /// Order of the examples in an epoch.
    pub(super) order: (u64, EpochOrder),
    pub(super) checkpoint_asked: bool,
    /// The step after which a checkpoint was last due.
    pub(super) saved_step: Option<u64>,
    pub(super) resumed: Option<ResumedFrom>,
    pub(super) phase: Phase,
}

/// Where a run is.
pub(super) enum Phase {
    /// Before its first event; what follows that.
    Begin(Activity),
    Active(Activity),
    Over,
}

/// Norms of equal gradients differ by no more than this share, on devices that sum in different orders.
const SAME_NORM: f64 = 1e-4;

/// What all ranks know at the end of a step.
struct Agreed {
    /// Of all micro-batches.
    loss: f64,
    grad_norm: f64,
    /// Why the gradients of some rank are of no use.
    failure: Option<String>,
    devices: Vec<DeviceStep>,
}

impl<O: Ops> Trainer<O> {
    /// Checks everything and allocates everything; computes nothing. With `initial`, training starts from that adapter; of `config.lora`,
    /// dropout and seed hold all the same.
    ///
    /// Errors: `INVALID_ARGUMENT` (a setting, or examples that are empty or malformed), `SEQUENCE_TOO_LONG`, `NO_TRAINABLE_TOKENS`,
    /// `UNKNOWN_TARGET_MODULE`, `ADAPTER_MISMATCH`, `OUT_OF_MEMORY`: before anything is allocated, where the run's plan does not fit.
    pub fn new(
        ops: Arc<O>,
        base: Arc<BaseModel<O>>,
        config: TrainConfig,
        train: impl Examples + 'static,
        evaluation: Option<Box<dyn Examples>>,
        initial: Option<PeftAdapter>,
    ) -> Result<Self> {
        Self::new_rank(ops, base, config, train, evaluation, initial, None)
    }

    /// As [`Self::new`], one rank of several where there is a collective: all are made with the same arguments but for their devices, and
    /// [`Self::advance`], [`Self::resume`], [`Self::request_checkpoint`] and [`Self::stop_after_step`] are called on each as on the others, in the
    /// same order. As many blocks are recomputed as the device with the least room needs.
    ///
    /// Errors: also those of the rendezvous.
    pub fn new_rank(
        ops: Arc<O>,
        base: Arc<BaseModel<O>>,
        config: TrainConfig,
        train: impl Examples + 'static,
        evaluation: Option<Box<dyn Examples>>,
        initial: Option<PeftAdapter>,
        collective: Option<Arc<dyn Collective<O>>>,
    ) -> Result<Self> {
        let world_size = collective.as_ref().map_or(1, |found| found.rendezvous().ranks());
        let mut config = TrainConfig { world_size, ..config };
        let estimate_of = |config: &TrainConfig| {
            let request = EstimateRequest {
                model: &base.config,
                weights: &base.forms,
                loaded: true,
                config,
                train: &train,
                evaluation: evaluation.as_deref(),
                initial: initial.as_ref(),
            };
            let estimate = estimate(&*ops, &request)?;
            estimate.memory.refusal().map_or(Ok(estimate), Err)
        };
        let mut estimate = estimate_of(&config)?;
        if let Some(collective) = &collective {
            let layers = largest(&**collective, estimate.memory.plan.recompute_layers)?;
            if layers != estimate.memory.plan.recompute_layers {
                config.recompute_layers = Recompute::Layers(layers);
                estimate = estimate_of(&config)?;
            }
        }
        let adapter = match &initial {
            Some(peft) => {
                let adapter = LoraAdapter::from_peft(&*ops, &base.config, peft)?;
                LoraAdapter { lora_dropout: config.lora.lora_dropout, ..adapter }
            }
            None => LoraAdapter::new(&*ops, &base.config, &config.lora)?,
        };
        let plan = TrainingPlan::new(&config, train.lengths());
        let keep =
            Keep::AllBut { recomputed: estimate.memory.plan.recompute_layers, offload: config.offload_activations };
        let share = Share::new(collective, &adapter.layout, base.layers.len());
        let workspace = Workspace::new(ops.clone(), base, adapter, estimate.memory.sizes, keep, &config)?;
        let train: Arc<dyn Examples> = Arc::new(train);
        let evaluation: Option<Arc<dyn Examples>> = evaluation.map(Arc::from);
        let layout = &workspace.adapter.layout;
        let identity = Identity::new(ops.environment(), &config, layout, train.clone(), evaluation.clone());
        let first = match evaluation {
            Some(_) => Activity::Evaluate(EvaluationSums::default()),
            None => Activity::Train(None),
        };
        Ok(Self {
            schedule: LrSchedule::new(
                config.lr_scheduler_type,
                config.learning_rate,
                config.warmup_steps,
                plan.max_steps(),
            ),
            order: (0, plan.order(0)),
            scaler: config.loss_scaling.map(LossScaler::new),
            best_model: BestModel::new(&config),
            last_step: plan.max_steps(),
            identity: Arc::new(identity),
            ops,
            config,
            plan,
            train,
            evaluation,
            share,
            workspace,
            estimate,
            meter: Meter::default(),
            clock: Instant::now(),
            global_step: 0,
            updates: 0,
            skipped_steps: 0,
            non_finite_steps: 0,
            evaluated_step: None,
            best_parameters: None,
            checkpoint_asked: false,
            saved_step: None,
            resumed: None,
            phase: Phase::Begin(first),
        })
    }

    /// Says in checkpoints, and where the run goes on from one, which model this is. Before either.
    #[must_use]
    pub fn of_model(mut self, model: ModelIdentity) -> Self {
        if let Some(identity) = Arc::get_mut(&mut self.identity) {
            identity.model = Some(model);
        }
        self
    }

    /// Does the next piece of work: at most one micro-batch, forward and backward, or one evaluation batch.
    ///
    /// Errors: `NON_FINITE_LOSS`, naming the step; what the device reports. The run is then over, and the adapter stays as the last whole step
    /// left it.
    pub fn advance(&mut self) -> Result<Progress> {
        // Whatever fails leaves the run over.
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Begin(next) => {
                if matches!(next, Activity::Train(Some(_))) {
                    self.meter.begin_step(self.clock.elapsed().as_secs_f64());
                }
                self.phase = Phase::Active(next);
                Ok(Progress::Event(TrainingEvent::Started(Box::new(self.estimate.clone()))))
            }
            Phase::Active(Activity::Train(None)) if self.global_step >= self.last_step => {
                self.phase = Phase::Active(self.after_last_step());
                self.advance()
            }
            Phase::Active(Activity::Train(None)) if self.checkpoint_is_due() => {
                (self.checkpoint_asked, self.saved_step) = (false, Some(self.global_step));
                self.phase = Phase::Active(Activity::Train(None));
                Ok(Progress::CheckpointDue)
            }
            Phase::Active(Activity::Train(group)) => self.train_micro_batch(group).map_err(|error| self.in_step(error)),
            Phase::Active(Activity::Evaluate(sums)) => self.evaluate_batch(sums),
            Phase::Active(Activity::End) => {
                if let Some(best) = self.best_parameters.take() {
                    self.workspace.restore(&best)?;
                }
                Ok(Progress::Event(TrainingEvent::Finished))
            }
            Phase::Over => Ok(Progress::Finished),
        }
    }

    /// What was known of the run before its first step.
    pub fn estimate(&self) -> &TrainingEstimate {
        &self.estimate
    }

    /// The adapter as the last whole step left it, at any time; after a run with `load_best_model_at_end` that of the best evaluation. Waits for
    /// the device.
    pub fn adapter(&self) -> Result<PeftAdapter> {
        self.workspace.adapter.to_peft(&*self.ops, None)
    }

    /// Steps done.
    pub fn global_step(&self) -> u64 {
        self.global_step
    }

    /// Optimizer steps of the run.
    pub fn max_steps(&self) -> u64 {
        self.plan.max_steps()
    }

    fn train_micro_batch(&mut self, group: Option<Group>) -> Result<Progress> {
        let mut group = match group {
            Some(group) => group,
            None => self.begin_group()?,
        };
        let ranks = self.share.ranks();
        let round: Vec<usize> = group.batches.by_ref().take(ranks).collect();
        let Some(batch) = round.get(self.share.rank()).copied() else {
            return Err(EngineError::internal("a step without micro-batches"));
        };
        let tokens_of = |batch: usize| {
            let indices = self.order.1.batch(batch);
            indices.iter().map(|index| self.train.example_len(*index as usize) as u64).sum::<u64>()
        };
        group.tokens += round.iter().map(|batch| tokens_of(*batch)).sum::<u64>();
        group.own_tokens += tokens_of(batch);
        if group.failure.is_none() {
            let labels = self.label_tokens([batch]);
            let divisor = self.config.loss_normalization.divisor(labels, group.divisor_tokens, group.micro_batches);
            let (grad_scale, random) = (self.loss_scale() / divisor, (self.dropout(batch), self.noise(batch)));
            let share = group.batches.is_empty().then_some(&mut self.share);
            match self.workspace.accumulate(&*self.train, self.order.1.batch(batch), grad_scale, random, share) {
                Ok(loss_sum) => group.loss += loss_sum / divisor,
                Err(error) if error.code == ErrorCode::NonFiniteLoss => {
                    group.loss = f64::NAN;
                    group.failure = Some(error.message);
                    if ranks == 1 {
                        return self.end_group(&group);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        // A rank that has failed comes along to the step's end, where it tells the others.
        if !group.batches.is_empty() {
            self.phase = Phase::Active(Activity::Train(Some(group)));
            return Ok(Progress::Pending);
        }
        self.end_group(&group)
    }

    /// Of some micro-batches of the current epoch.
    fn label_tokens(&self, batches: impl IntoIterator<Item = usize>) -> u64 {
        let examples = batches.into_iter().flat_map(|batch| self.order.1.batch(batch));
        examples.map(|index| self.train.label_count(*index as usize) as u64).sum()
    }

    /// Of the step under way.
    fn loss_scale(&self) -> f64 {
        self.scaler.as_ref().map_or(1.0, LossScaler::scale)
    }

    /// Of a micro-batch of the current epoch.
    fn dropout(&self, batch: usize) -> Option<Dropout> {
        let LoraConfig { lora_dropout: probability, seed, .. } = self.config.lora;
        let micro_batch = self.plan.micro_batch(self.global_step, batch);
        (probability > 0.0).then_some(Dropout { probability, seed, micro_batch })
    }

    /// As [`Self::dropout`].
    fn noise(&self, batch: usize) -> Option<EmbeddingNoise> {
        let (alpha, seed) = (self.config.neftune_noise_alpha, self.config.lora.seed);
        let micro_batch = self.plan.micro_batch(self.global_step, batch);
        (alpha > 0.0).then_some(EmbeddingNoise { alpha, seed, micro_batch })
    }

    fn begin_group(&mut self) -> Result<Group> {
        self.meter.begin_step(self.clock.elapsed().as_secs_f64());
        let (step, plan) = (self.global_step, &self.plan);
        if self.order.0 != plan.epoch(step) {
            self.order = (plan.epoch(step), plan.order(plan.epoch(step)));
        }
        let batches = plan.batches(step);
        let (rank, ranks) = (self.share.rank(), self.share.ranks());
        let label_tokens = self.label_tokens(batches.clone());
        let divisor_tokens = if self.config.average_tokens_across_devices {
            label_tokens
        } else {
            // The mean over the ranks of what each has by its own.
            self.label_tokens(batches.clone().skip(rank).step_by(ranks)) * ranks as u64
        };
        self.workspace.clear_gradients()?;
        Ok(Group {
            micro_batches: batches.len(),
            batches,
            loss: 0.0,
            tokens: 0,
            own_tokens: 0,
            label_tokens,
            divisor_tokens,
            failure: None,
        })
    }

    fn end_group(&mut self, group: &Group) -> Result<Progress> {
        let Agreed { loss, grad_norm, failure, devices } = self.agree(group)?;
        if let Some(message) = failure {
            self.skip_non_finite(EngineError::new(ErrorCode::NonFiniteLoss, message))?;
            return self.finish_step(group, [f64::NAN; 2], devices);
        }
        match &mut self.scaler {
            Some(scaler) if grad_norm.is_finite() => scaler.succeeded(),
            Some(scaler) => scaler.overflowed()?,
            None if grad_norm.is_finite() => {}
            None => {
                let message = format!("the norm of the gradients is {grad_norm}");
                self.skip_non_finite(EngineError::new(ErrorCode::NonFiniteLoss, message))?;
            }
        }
        self.finish_step(group, [loss, grad_norm], devices)
    }

    /// Makes the gradients those of all ranks, clipped, and tells what all ranks decide by.
    fn agree(&mut self, group: &Group) -> Result<Agreed> {
        let ranks = self.share.ranks();
        if ranks > 1 || group.failure.is_none() {
            self.workspace.reduce(&mut self.share)?;
        }
        let grad_norm = match group.failure {
            Some(_) => f64::NAN,
            None => self.workspace.clip(self.loss_scale(), self.config.max_grad_norm)?,
        };
        let seconds = self.meter.seconds_of_step(self.clock.elapsed().as_secs_f64());
        let memory = self.ops.memory();
        let device = DeviceStep {
            tokens_per_second: group.own_tokens as f64 / seconds,
            allocated_bytes: memory.allocated_bytes,
            peak_allocated_bytes: memory.peak_allocated_bytes,
            communication_share: self.share.take_communication_seconds() / seconds,
        };
        let failure = group.failure.clone();
        let reports = self.share.exchange(StepReport { loss: group.loss, grad_norm, device, failure })?;
        let failure = reports.iter().find_map(|report| report.failure.clone());
        let grad_norm = reports[0].grad_norm;
        let same = |norm: f64| match grad_norm.is_finite() {
            true => (norm - grad_norm).abs() <= SAME_NORM * grad_norm,
            false => !norm.is_finite(),
        };
        if failure.is_none() && !reports.iter().all(|report| same(report.grad_norm)) {
            let norms: Vec<f64> = reports.iter().map(|report| report.grad_norm).collect();
            return Err(EngineError::internal(format!(
                "the devices have gradients of norms {norms:?}; expected the same sum on each; please report this"
            )));
        }
        Ok(Agreed {
            loss: reports.iter().map(|report| report.loss).sum(),
            grad_norm,
            failure,
            devices: reports.iter().map(|report| report.device).collect(),
        })
    }

    /// Counts a step that has to be skipped; the given error where no more may be.
    fn skip_non_finite(&mut self, error: EngineError) -> Result<()> {
        if self.non_finite_steps == self.config.max_non_finite_steps {
            return Err(error);
        }
        self.non_finite_steps += 1;
        Ok(())
    }

    /// Updates the adapter, where the norm of its clipped gradients is finite, and reports the step.
    fn finish_step(
        &mut self,
        group: &Group,
        [loss, grad_norm]: [f64; 2],
        devices: Vec<DeviceStep>,
    ) -> Result<Progress> {
        let step = self.global_step;
        let learning_rate = self.schedule.at(self.updates);
        let skipped = !grad_norm.is_finite();
        if skipped {
            self.skipped_steps += 1;
        } else {
            self.updates += 1;
            self.workspace.update(AdamW {
                learning_rate,
                beta1: self.config.adam_beta1,
                beta2: self.config.adam_beta2,
                epsilon: self.config.adam_epsilon,
                weight_decay: self.config.weight_decay,
                step: self.updates,
            })?;
        }
        self.global_step = step + 1;
        let next = match self.evaluation_is_due() {
            true => Activity::Evaluate(EvaluationSums::default()),
            false => self.after_evaluation(),
        };
        self.phase = Phase::Active(next);
        let remaining = self.last_step.saturating_sub(self.global_step);
        let pace = self.meter.end_step(self.clock.elapsed().as_secs_f64(), group.tokens, remaining);
        let memory = self.ops.memory();
        Ok(Progress::Event(TrainingEvent::Step(TrainingStep {
            global_step: self.global_step,
            max_steps: self.plan.max_steps(),
            epoch: self.plan.epochs_done(step),
            loss,
            grad_norm,
            learning_rate,
            tokens: group.tokens,
            label_tokens: group.label_tokens,
            tokens_per_second: pace.tokens_per_second,
            allocated_bytes: memory.allocated_bytes,
            peak_allocated_bytes: memory.peak_allocated_bytes,
            eta_seconds: pace.eta_seconds,
            skipped,
            skipped_steps: self.skipped_steps,
            devices,
        })))
    }

    fn evaluate_batch(&mut self, mut sums: EvaluationSums) -> Result<Progress> {
        let Some(examples) = &self.evaluation else {
            return Err(EngineError::internal("an evaluation without examples"));
        };
        let (shares, rank) = (EvaluationShares::new(&self.config, examples.len()), self.share.rank());
        let [indices, repeated] = shares.batch(sums.rounds(), rank);
        let step = self.global_step;
        let mut evaluate = |indices: &[u32]| {
            if indices.is_empty() {
                return Ok((0.0, 0));
            }
            let found = self.workspace.evaluate(&**examples, indices);
            found.map_err(|error| non_finite_in(error, &format!("evaluation after step {step}")))
        };
        let (loss_sum, label_tokens) = evaluate(&indices)?;
        if indices.is_empty() {
            sums.add(0.0, 0, 0, 0.0);
        } else {
            // Trainer's mean of a batch counts what completes it.
            let (more, _) = evaluate(&repeated)?;
            let labels = |index: u32| examples.label_count(index as usize);
            let mean = (loss_sum + more) / shares.divisor(&self.config, sums.rounds(), rank, labels);
            sums.add(loss_sum, label_tokens, indices.len(), mean);
        }
        if sums.rounds() < shares.rounds() {
            self.phase = Phase::Active(Activity::Evaluate(sums));
            return Ok(Progress::Pending);
        }
        let sums = sums.over_ranks(|own| self.share.sum(own))?;
        let epoch = step.checked_sub(1).map_or(0.0, |last| self.plan.epochs_done(last));
        self.evaluated_step = Some(step);
        let mut result = sums.result(step, epoch);
        // Before the first step nothing was trained that could be kept.
        if step > 0 {
            self.best_model.judge(&mut result);
        }
        if self.config.load_best_model_at_end && result.best {
            self.best_parameters = Some(self.workspace.parameters()?);
        }
        self.phase = Phase::Active(if result.stops { Activity::End } else { self.after_evaluation() });
        Ok(Progress::Event(TrainingEvent::Evaluation(result)))
    }

    /// After a step.
    fn evaluation_is_due(&self) -> bool {
        let step = self.global_step;
        let in_turn = match self.config.eval_steps {
            Some(every) => step.is_multiple_of(every),
            None => self.plan.ends_epoch(step - 1),
        };
        self.evaluation.is_some() && (in_turn || step == self.last_step)
    }

    fn after_evaluation(&self) -> Activity {
        if self.global_step >= self.last_step { Activity::End } else { Activity::Train(None) }
    }

    /// Where the run was told between two steps that the one before is the last.
    fn after_last_step(&self) -> Activity {
        match self.evaluation.is_some() && self.evaluated_step != Some(self.global_step) {
            true => Activity::Evaluate(EvaluationSums::default()),
            false => Activity::End,
        }
    }

    /// Between two steps.
    fn checkpoint_is_due(&self) -> bool {
        let step = self.global_step;
        let in_turn = self.config.save_steps.is_some_and(|every| step > 0 && step.is_multiple_of(every));
        self.checkpoint_asked || (in_turn && self.saved_step != Some(step))
    }

    fn in_step(&self, error: EngineError) -> EngineError {
        non_finite_in(error, &format!("step {} of {}", self.global_step + 1, self.plan.max_steps()))
    }
}

/// Says where a loss broke, and what can be done.
fn non_finite_in(error: EngineError, place: &str) -> EngineError {
    if error.code != ErrorCode::NonFiniteLoss {
        return error;
    }
    let message = format!(
        "{place}: {}; expected a finite number; lower learning_rate, warm up longer or clip with max_grad_norm",
        error.message
    );
    EngineError::new(ErrorCode::NonFiniteLoss, message)
}
