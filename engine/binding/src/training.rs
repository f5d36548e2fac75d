//! Training runs.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use luthier_core::device::{Batch, RunEvent, TrainingRun};
use luthier_core::lora::peft::write_adapter;
use luthier_core::lora::{LoraConfig, LoraTargets, ModuleNames};
use luthier_core::train::checkpoint::{CheckpointFile, ResumedFrom, SavedCheckpoint};
use luthier_core::train::{
    DeviceStep, EvaluationResult, LrSchedulerKwargs, LrSchedulerType, TrainConfig, TrainingEvent, TrainingStep,
};
use luthier_core::{EngineError, ErrorCode};
use napi::Env;
use napi::bindgen_prelude::{Either, Object};
use napi_derive::napi;

use crate::dto::{NativeAdapterMetadata, NativeSavedAdapter};
use crate::estimate::NativeTrainingEstimate;
use crate::promise::{background, promise};

#[napi(object, object_to_js = false)]
pub struct NativeLoraConfig {
    pub r: u32,
    pub lora_alpha: f64,
    pub lora_dropout: f64,
    pub use_rslora: bool,
    pub seed: u32,
    /// A text is a regular expression; absent: all.
    pub target_modules: Option<Either<String, Vec<String>>>,
    pub exclude_modules: Option<Either<String, Vec<String>>>,
    pub layers_to_transform: Option<Vec<u32>>,
    pub layers_pattern: Vec<String>,
    pub rank_pattern: HashMap<String, u32>,
    pub alpha_pattern: HashMap<String, f64>,
}

impl From<NativeLoraConfig> for LoraConfig {
    fn from(found: NativeLoraConfig) -> Self {
        let names = |names| match names {
            Either::A(pattern) => ModuleNames::Pattern(pattern),
            Either::B(names) => ModuleNames::Names(names),
        };
        let layers = |layers: Vec<u32>| layers.into_iter().map(|layer| layer as usize).collect();
        Self {
            r: found.r as usize,
            lora_alpha: found.lora_alpha,
            lora_dropout: found.lora_dropout,
            use_rslora: found.use_rslora,
            seed: u64::from(found.seed),
            targets: LoraTargets {
                target_modules: found.target_modules.map_or(ModuleNames::AllLinear, names),
                exclude_modules: found.exclude_modules.map(names),
                layers_to_transform: found.layers_to_transform.map(layers),
                layers_pattern: found.layers_pattern,
                rank_pattern: found.rank_pattern.into_iter().map(|(key, r)| (key, r as usize)).collect(),
                alpha_pattern: found.alpha_pattern.into_iter().collect(),
            },
        }
    }
}

#[napi(object, object_to_js = false)]
pub struct NativeLrSchedulerKwargs {
    pub num_cycles: Option<f64>,
    pub power: Option<f64>,
    pub lr_end: Option<f64>,
    pub timescale: Option<f64>,
    pub min_lr: Option<f64>,
    pub min_lr_rate: Option<f64>,
    pub warmup_lr_rate: Option<f64>,
    pub num_decay_steps: Option<u32>,
    pub num_stable_steps: Option<u32>,
    pub warmup_type: Option<String>,
    pub decay_type: Option<String>,
    pub min_lr_ratio: Option<f64>,
}

impl From<NativeLrSchedulerKwargs> for LrSchedulerKwargs {
    fn from(found: NativeLrSchedulerKwargs) -> Self {
        Self {
            num_cycles: found.num_cycles,
            power: found.power,
            lr_end: found.lr_end,
            timescale: found.timescale,
            min_lr: found.min_lr,
            min_lr_rate: found.min_lr_rate,
            warmup_lr_rate: found.warmup_lr_rate,
            num_decay_steps: found.num_decay_steps.map(u64::from),
            num_stable_steps: found.num_stable_steps.map(u64::from),
            warmup_type: found.warmup_type,
            decay_type: found.decay_type,
            min_lr_ratio: found.min_lr_ratio,
        }
    }
}

#[napi(object, object_to_js = false)]
pub struct NativeTrainingConfig {
    pub lora: NativeLoraConfig,
    pub init_adapter_path: Option<String>,
    pub init_adapter_any_base: bool,
    pub optim: String,
    pub learning_rate: f64,
    pub loraplus_lr_ratio: f64,
    pub lr_scheduler_type: String,
    pub lr_scheduler_kwargs: NativeLrSchedulerKwargs,
    pub warmup_steps: f64,
    pub weight_decay: f64,
    pub adam_beta1: f64,
    pub adam_beta2: f64,
    pub adam_epsilon: f64,
    pub max_grad_norm: f64,
    pub label_smoothing_factor: f64,
    pub neftune_noise_alpha: f64,
    pub loss_normalization: String,
    pub per_device_train_batch_size: u32,
    pub gradient_accumulation_steps: u32,
    pub num_train_epochs: f64,
    pub max_steps: Option<u32>,
    pub per_device_eval_batch_size: u32,
    pub eval_steps: Option<u32>,
    pub metric_for_best_model: String,
    pub load_best_model_at_end: bool,
    pub early_stopping_patience: Option<u32>,
    pub early_stopping_threshold: f64,
    pub max_non_finite_steps: u32,
    pub save_steps: Option<u32>,
    pub shuffle: bool,
    pub data_seed: u32,
    pub group_by_length: bool,
    /// Absent: examples are not packed.
    pub packing_length: Option<u32>,
    /// `auto`, `all` or a number.
    pub recompute_layers: String,
    pub offload_activations: bool,
}

impl TryFrom<NativeTrainingConfig> for TrainConfig {
    type Error = EngineError;

    fn try_from(found: NativeTrainingConfig) -> luthier_core::Result<Self> {
        Ok(Self {
            lora: found.lora.into(),
            optim: found.optim.parse()?,
            learning_rate: found.learning_rate,
            loraplus_lr_ratio: found.loraplus_lr_ratio,
            lr_scheduler_type: LrSchedulerType::new(&found.lr_scheduler_type, &found.lr_scheduler_kwargs.into())?,
            warmup_steps: found.warmup_steps,
            weight_decay: found.weight_decay,
            adam_beta1: found.adam_beta1,
            adam_beta2: found.adam_beta2,
            adam_epsilon: found.adam_epsilon,
            max_grad_norm: found.max_grad_norm,
            label_smoothing_factor: found.label_smoothing_factor,
            neftune_noise_alpha: found.neftune_noise_alpha,
            loss_normalization: found.loss_normalization.parse()?,
            per_device_train_batch_size: found.per_device_train_batch_size as usize,
            gradient_accumulation_steps: found.gradient_accumulation_steps as usize,
            num_train_epochs: found.num_train_epochs,
            max_steps: found.max_steps.map(u64::from),
            per_device_eval_batch_size: found.per_device_eval_batch_size as usize,
            eval_steps: found.eval_steps.map(u64::from),
            metric_for_best_model: found.metric_for_best_model.parse()?,
            load_best_model_at_end: found.load_best_model_at_end,
            early_stopping_patience: found.early_stopping_patience.map(u64::from),
            early_stopping_threshold: found.early_stopping_threshold,
            max_non_finite_steps: u64::from(found.max_non_finite_steps),
            save_steps: found.save_steps.map(u64::from),
            shuffle: found.shuffle,
            data_seed: u64::from(found.data_seed),
            group_by_length: found.group_by_length,
            packing_length: found.packing_length.map(|length| length as usize),
            recompute_layers: found.recompute_layers.parse()?,
            offload_activations: found.offload_activations,
            // The devices that train know.
            loss_scaling: None,
            world_size: 1,
            average_tokens_across_devices: true,
        })
    }
}

#[napi(object, object_from_js = false)]
pub struct NativeTrainingStep {
    pub global_step: f64,
    pub max_steps: f64,
    pub epoch: f64,
    pub loss: f64,
    pub grad_norm: f64,
    pub learning_rate: f64,
    pub tokens: f64,
    pub label_tokens: f64,
    pub tokens_per_second: f64,
    pub allocated_bytes: f64,
    pub peak_allocated_bytes: f64,
    pub eta_seconds: f64,
    pub skipped: bool,
    pub skipped_steps: f64,
    pub devices: Vec<NativeDeviceStep>,
}

#[napi(object, object_from_js = false)]
pub struct NativeDeviceStep {
    pub tokens_per_second: f64,
    pub allocated_bytes: f64,
    pub peak_allocated_bytes: f64,
    pub communication_share: f64,
}

impl From<DeviceStep> for NativeDeviceStep {
    fn from(step: DeviceStep) -> Self {
        Self {
            tokens_per_second: step.tokens_per_second,
            allocated_bytes: step.allocated_bytes as f64,
            peak_allocated_bytes: step.peak_allocated_bytes as f64,
            communication_share: step.communication_share,
        }
    }
}

impl From<TrainingStep> for NativeTrainingStep {
    fn from(step: TrainingStep) -> Self {
        Self {
            global_step: step.global_step as f64,
            max_steps: step.max_steps as f64,
            epoch: step.epoch,
            loss: step.loss,
            grad_norm: step.grad_norm,
            learning_rate: step.learning_rate,
            tokens: step.tokens as f64,
            label_tokens: step.label_tokens as f64,
            tokens_per_second: step.tokens_per_second,
            allocated_bytes: step.allocated_bytes as f64,
            peak_allocated_bytes: step.peak_allocated_bytes as f64,
            eta_seconds: step.eta_seconds,
            skipped: step.skipped,
            skipped_steps: step.skipped_steps as f64,
            devices: step.devices.into_iter().map(Into::into).collect(),
        }
    }
}

#[napi(object, object_from_js = false)]
pub struct NativeEvaluation {
    pub global_step: f64,
    pub epoch: f64,
    pub loss: f64,
    pub trainer_loss: f64,
    pub label_tokens: f64,
    pub examples: f64,
    pub best: bool,
    pub stops: bool,
}

impl From<EvaluationResult> for NativeEvaluation {
    fn from(result: EvaluationResult) -> Self {
        Self {
            global_step: result.global_step as f64,
            epoch: result.epoch,
            loss: result.loss,
            trainer_loss: result.trainer_loss,
            label_tokens: result.label_tokens as f64,
            examples: result.examples as f64,
            best: result.best,
            stops: result.stops,
        }
    }
}

/// What a run went on from.
#[napi(object, object_from_js = false)]
pub struct NativeResumedRun {
    pub global_step: f64,
    pub differences: Vec<String>,
}

impl From<&ResumedFrom> for NativeResumedRun {
    fn from(found: &ResumedFrom) -> Self {
        Self { global_step: found.global_step as f64, differences: found.differences.clone() }
    }
}

/// `kind` is `started`, `step`, `evaluation`, `checkpoint`, `finished`, `cancelled` or `paused`; the object of that name is set where there is one:
/// of `started`, `plan` and, where the run goes on from a checkpoint, `resumed`; of `checkpoint` and `paused`, the steps done.
#[napi(object, object_from_js = false, use_nullable = true)]
pub struct NativeTrainingEvent {
    pub kind: String,
    pub plan: Option<NativeTrainingEstimate>,
    pub resumed: Option<NativeResumedRun>,
    pub step: Option<NativeTrainingStep>,
    pub evaluation: Option<NativeEvaluation>,
    pub global_step: Option<f64>,
}

impl NativeTrainingEvent {
    fn new(event: RunEvent, resumed: Option<&ResumedFrom>) -> Self {
        let bare = |kind: &str| Self {
            kind: kind.to_owned(),
            plan: None,
            resumed: None,
            step: None,
            evaluation: None,
            global_step: None,
        };
        let after = |kind: &str, step: u64| Self { global_step: Some(step as f64), ..bare(kind) };
        match event {
            RunEvent::Training(TrainingEvent::Started(estimate)) => {
                let resumed = resumed.map(NativeResumedRun::from);
                Self { plan: Some((*estimate).into()), resumed, ..bare("started") }
            }
            RunEvent::Checkpoint(global_step) => after("checkpoint", global_step),
            RunEvent::Paused(global_step) => after("paused", global_step),
            RunEvent::Training(TrainingEvent::Step(step)) => Self { step: Some(step.into()), ..bare("step") },
            RunEvent::Training(TrainingEvent::Evaluation(result)) => {
                Self { evaluation: Some(result.into()), ..bare("evaluation") }
            }
            RunEvent::Training(TrainingEvent::Finished) => bare("finished"),
            RunEvent::Cancelled => bare("cancelled"),
        }
    }
}

#[napi(object, object_from_js = false)]
pub struct NativeCheckpointFile {
    pub name: String,
    pub bytes: f64,
    pub sha256: String,
}

#[napi(object, object_from_js = false)]
pub struct NativeSavedCheckpoint {
    pub global_step: f64,
    pub files: Vec<NativeCheckpointFile>,
}

impl From<SavedCheckpoint> for NativeSavedCheckpoint {
    fn from(saved: SavedCheckpoint) -> Self {
        let file = |CheckpointFile { name, bytes, sha256 }| NativeCheckpointFile { name, bytes: bytes as f64, sha256 };
        Self { global_step: saved.global_step as f64, files: saved.files.into_iter().map(file).collect() }
    }
}

/// What happened since the last batch. A failure comes after every event before it: as an error code and message on the last batch.
#[napi(object, object_from_js = false, use_nullable = true)]
pub struct NativeTrainingEvents {
    pub events: Vec<NativeTrainingEvent>,
    pub ended: bool,
    pub failure_code: Option<String>,
    pub failure_message: Option<String>,
}

/// A training run.
#[napi]
pub struct NativeTrainingRun(Mutex<Option<Arc<TrainingRun>>>);

impl NativeTrainingRun {
    pub(crate) fn new(run: TrainingRun) -> Self {
        Self(Mutex::new(Some(Arc::new(run))))
    }

    fn run(&self) -> Option<Arc<TrainingRun>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn closed() -> EngineError {
    EngineError::new(ErrorCode::Closed, "the run was closed; nothing can be asked of it")
}

#[napi]
impl NativeTrainingRun {
    /// The next batch; ask for it again until it says `ended`.
    #[napi]
    pub fn next<'env>(&self, env: &'env Env) -> napi::Result<Object<'env>> {
        let (settle, promise) = promise(env)?;
        match self.run() {
            Some(run) => {
                let resumed = run.resumed.clone();
                run.events.next(move |batch| settle.with(Ok(events(batch, resumed.as_ref()))));
            }
            None => settle.with(Err(closed())),
        }
        Ok(promise)
    }

    /// Takes effect within one micro-batch. Idempotent.
    #[napi]
    pub fn cancel(&self) {
        if let Some(run) = self.run() {
            run.cancel();
        }
    }

    /// A checkpoint after the step under way and its evaluation.
    #[napi]
    pub fn request_checkpoint(&self) {
        if let Some(run) = self.run() {
            run.request_checkpoint();
        }
    }

    /// As `cancel`, with a checkpoint. Idempotent.
    #[napi]
    pub fn pause(&self) {
        if let Some(run) = self.run() {
            run.pause();
        }
    }

    /// The step under way is the last one. Idempotent.
    #[napi]
    pub fn stop_after_step(&self) {
        if let Some(run) = self.run() {
            run.stop_after_step();
        }
    }

    /// Writes the latest checkpoint into an existing folder, while the run goes on.
    #[napi]
    pub fn save_checkpoint<'env>(&self, env: &'env Env, folder: String) -> napi::Result<Object<'env>> {
        let run = self.run();
        background(env, move || {
            let saved = run.ok_or_else(closed)?.write_checkpoint(&PathBuf::from(folder))?;
            Ok(NativeSavedCheckpoint::from(saved))
        })
    }

    /// Writes PEFT's two files into an existing folder.
    #[napi]
    pub fn save_adapter<'env>(
        &self,
        env: &'env Env,
        folder: String,
        metadata: NativeAdapterMetadata,
    ) -> napi::Result<Object<'env>> {
        let run = self.run();
        background(env, move || {
            let mut adapter = run.ok_or_else(closed)?.adapter()?;
            adapter.metadata = Some(metadata.into());
            Ok(NativeSavedAdapter::from(write_adapter(&PathBuf::from(folder), &adapter)?))
        })
    }

    /// Cancels, and frees the memory once the device's thread has seen it. Idempotent.
    #[napi]
    pub fn close(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

fn events(batch: Batch<RunEvent>, resumed: Option<&ResumedFrom>) -> NativeTrainingEvents {
    let failure = batch.end.as_ref().and_then(|end| end.as_ref().err());
    NativeTrainingEvents {
        ended: batch.end.is_some(),
        failure_code: failure.map(|error| error.code.as_str().to_owned()),
        failure_message: failure.map(|error| error.message.clone()),
        events: batch.items.into_iter().map(|event| NativeTrainingEvent::new(event, resumed)).collect(),
    }
}
