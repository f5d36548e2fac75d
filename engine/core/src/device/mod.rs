//! One operating-system thread owns the device and everything that computes on it. Others hand it runs and read what they tell.
//!
//! A device is the processor or one GPU; a model's weights are on it once, and training, generation and scoring read the same.
//!
//! Policy. A turn is the shortest piece of work: a micro-batch, a piece of a prompt, one token, a piece of a score. Generation and scoring
//! take turns one after another, and between two micro-batches they have together as long as the last micro-batch took, at least a turn
//! each. What comes during a micro-batch is served right after it; a request that then waits through a second one goes on until it has its
//! first result. Cancelling, dropping a run and closing take effect at the next turn.
//!
//! Several devices may train together: each other one has a thread and a copy of the model, and takes turns when the first does; generation and
//! scoring stay on the first.
//!
//! A panic ends the run that caused it, with an `INTERNAL` error; the thread goes on.

mod backend;
mod channel;
mod estimate;
mod generation;
mod info;
mod list;
mod model;
mod others;
mod scheduler;
mod scoring;
mod task;
mod thread;
mod training;

pub use channel::{Batch, Events};
pub use estimate::EstimateQuery;
pub use generation::{GenerationEnd, GenerationRun};
pub use info::DeviceInfo;
pub use list::DeviceList;
pub use model::{LoadedAdapter, LoadedModel};
pub use thread::Device;
pub use training::{RunEvent, TrainingRequest, TrainingRun};

#[cfg(test)]
mod tests;
