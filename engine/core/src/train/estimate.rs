//! What a run will be and need, known before anything is allocated.

use super::config::TrainConfig;
use super::memory_plan::{MemoryEstimate, MemoryRequest};
use super::optimizer::OptimizerPlan;
use super::plan::TrainingPlan;
use crate::config::ModelConfig;
use crate::error::{EngineError, ErrorCode, Result};
use crate::lora::LoraLayout;
use crate::lora::peft::PeftAdapter;
use crate::model::{Examples, WeightForms};
use crate::ops::Ops;

/// What is to be run.
pub struct EstimateRequest<'a> {
    pub model: &'a ModelConfig,
    pub weights: &'a WeightForms,
    /// Whether the weights are on the device.
    pub loaded: bool,
    pub config: &'a TrainConfig,
    pub train: &'a dyn Examples,
    pub evaluation: Option<&'a dyn Examples>,
    /// An adapter to start from.
    pub initial: Option<&'a PeftAdapter>,
}

/// What packing makes of the training examples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PackingEstimate {
    /// Of an epoch.
    pub sequences: u64,
    /// Share of the sequences' places that tokens take.
    pub utilization: f64,
}

/// Length, size and memory of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingEstimate {
    /// Of training, once.
    pub examples: u64,
    pub tokens: u64,
    /// Labels that are learned.
    pub label_tokens: u64,
    pub eval_examples: u64,
    /// Where examples are packed.
    pub packing: Option<PackingEstimate>,
    /// Optimizer steps.
    pub max_steps: u64,
    /// Tokens of all steps; a part of an epoch counts by its micro-batches.
    pub run_tokens: u64,
    pub trainable_parameters: u64,
    /// Module names with matrices, such as `q_proj`.
    pub target_modules: Vec<String>,
    pub memory: MemoryEstimate,
}

/// Checks a run as [`Trainer::new`](super::Trainer::new) does, and prices it as the device's memory is now. Allocates nothing there. A run that
/// does not fit is no error here.
///
/// Errors: those of `Trainer::new`, but for `OUT_OF_MEMORY`.
pub fn estimate<O: Ops>(ops: &O, request: &EstimateRequest<'_>) -> Result<TrainingEstimate> {
    let EstimateRequest { model, weights, loaded, config, train, evaluation, initial } = *request;
    config.validate()?;
    train.validate(model, "training")?;
    if let Some(evaluation) = evaluation {
        evaluation.validate(model, "evaluation")?;
    }
    config.check_evaluation(evaluation.is_some())?;
    let layout = match initial {
        Some(peft) => LoraLayout::of_peft(model, peft)?,
        None => {
            config.lora.validate()?;
            LoraLayout::for_config(model, &config.lora)?
        }
    };
    let lengths = train.lengths();
    if let Some(limit) = config.packing_length {
        check_packable(&lengths, limit)?;
    }
    let tokens: u64 = lengths.iter().map(|length| u64::from(*length)).sum();
    let plan = TrainingPlan::new(config, lengths);
    if plan.sequences() < config.world_size {
        return Err(EngineError::invalid(format!(
            "{} devices share {} training {}; expected at least one for each; use fewer devices",
            config.world_size,
            plan.sequences(),
            if config.packing_length.is_some() { "packed sequences" } else { "examples" }
        )));
    }
    let packing = config.packing_length.map(|length| PackingEstimate {
        sequences: plan.sequences() as u64,
        utilization: tokens as f64 / (plan.sequences() as f64 * length as f64),
    });
    let epochs = plan.epochs_done(plan.max_steps() - 1);
    let prices = ops.prices();
    let optimizer = OptimizerPlan::new(config, &layout);
    let memory = MemoryRequest {
        prices: &*prices,
        room: ops.room(),
        model,
        weights,
        loaded,
        config,
        layout: &layout,
        train,
        evaluation,
        optimizer: &optimizer,
    };
    Ok(TrainingEstimate {
        examples: train.len() as u64,
        tokens,
        label_tokens: (0..train.len()).map(|index| train.label_count(index) as u64).sum(),
        eval_examples: evaluation.map_or(0, Examples::len) as u64,
        packing,
        max_steps: plan.max_steps(),
        run_tokens: (tokens as f64 * epochs).round() as u64,
        trainable_parameters: layout.len() as u64,
        target_modules: layout.target_modules(),
        memory: memory.estimate(),
    })
}

/// `SEQUENCE_TOO_LONG` for an example that does not fit into a packed sequence.
fn check_packable(lengths: &[u32], limit: usize) -> Result<()> {
    let Some(index) = lengths.iter().position(|length| *length as usize > limit) else { return Ok(()) };
    let message = format!(
        "training example {index} has {} tokens; packed sequences have {limit}; shorten it, or pack into longer ones",
        lengths[index]
    );
    Err(EngineError::new(ErrorCode::SequenceTooLong, message))
}
