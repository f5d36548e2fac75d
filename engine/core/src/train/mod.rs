//! Training an adapter: order of examples, schedule, accumulation, optimizer, evaluation. Advances one micro-batch at a time.

mod config;
mod evaluation;
mod events;
mod loss_scale;
mod meter;
mod plan;
mod schedule;
mod trainer;
mod workspace;

pub use config::TrainConfig;
pub use events::{EvaluationResult, Progress, TrainingEvent, TrainingStep};
pub use loss_scale::LossScaling;
pub use plan::TrainingPlan;
pub use schedule::{LrSchedule, LrSchedulerType};
pub use trainer::Trainer;
