//! Training an adapter: order of examples, schedule, accumulation, optimizer, evaluation. Advances one micro-batch at a time.

mod config;
mod estimate;
mod evaluation;
mod events;
mod loss_scale;
mod memory_plan;
mod meter;
mod order;
mod packing;
#[cfg(test)]
mod placement_tests;
mod plan;
mod schedule;
mod sizes;
mod suggestions;
mod trainer;
mod workspace;

pub use config::{Recompute, TrainConfig};
pub use estimate::{EstimateRequest, PackingEstimate, TrainingEstimate, estimate};
pub use events::{EvaluationResult, Progress, TrainingEvent, TrainingStep};
pub use loss_scale::LossScaling;
pub use memory_plan::{MemoryEstimate, MemoryPlan};
pub use order::EpochOrder;
pub use plan::TrainingPlan;
pub use schedule::{LrSchedule, LrSchedulerType};
pub use suggestions::Suggestion;
pub use trainer::Trainer;
