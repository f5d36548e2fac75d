//! What a run will be and need, known before anything is allocated.

use super::config::TrainConfig;
use super::memory_plan::{MemoryEstimate, MemoryRequest};
use super::optimizer::OptimizerPlan;
use super::plan::TrainingPlan;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::lora::LoraLayout;
use crate::lora::peft::PeftAdapter;
use crate::model::{TokenExamples, WeightForms};
use crate::ops::Ops;

/// What is to be run.
pub struct EstimateRequest<'a> {
    pub model: &'a ModelConfig,
    pub weights: &'a WeightForms,
    /// Whether the weights are on the device.
    pub loaded: bool,
    pub config: &'a TrainConfig,
    pub train: &'a TokenExamples,
    pub evaluation: Option<&'a TokenExamples>,
    /// An adapter to start from.
    pub initial: Option<&'a PeftAdapter>,
}

/// Length, size and memory of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingEstimate {
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
    let plan = TrainingPlan::new(config, train.len());
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
        max_steps: plan.max_steps(),
        run_tokens: (train.input_ids.len() as f64 * epochs).round() as u64,
        trainable_parameters: layout.len() as u64,
        target_modules: layout.target_modules(),
        memory: memory.estimate(),
    })
}
