//! Training an adapter: order of examples, schedule, accumulation, optimizer, evaluation. Advances one micro-batch at a time.

mod best_model;
pub mod checkpoint;
mod config;
mod estimate;
mod evaluation;
mod evaluation_share;
mod events;
mod loss_normalization;
mod loss_scale;
mod memory_plan;
mod meter;
mod optimizer;
mod order;
mod packing;
#[cfg(test)]
mod placement_tests;
mod plan;
mod ranked;
mod resume;
mod schedule;
mod scheduler_type;
mod share;
mod sizes;
mod suggestions;
mod trainer;
mod workspace;

pub use best_model::BestModelMetric;
pub use config::{Recompute, TrainConfig};
pub use estimate::{EstimateRequest, PackingEstimate, TrainingEstimate, estimate};
pub use events::{DeviceStep, EvaluationResult, Progress, TrainingEvent, TrainingStep};
pub use loss_normalization::LossNormalization;
pub use loss_scale::LossScaling;
pub use memory_plan::{MemoryEstimate, MemoryPlan};
pub use optimizer::Optim;
pub use order::EpochOrder;
pub use plan::TrainingPlan;
pub use ranked::{Rank, RankedInputs, RankedTrainer};
pub use schedule::LrSchedule;
pub use scheduler_type::{LrSchedulerKwargs, LrSchedulerType, MinLr, Slope, StableDecay};
pub use suggestions::Suggestion;
pub use trainer::Trainer;
