//! The memory plan: what it says is what a run takes, and what does not fit is refused with settings that do.

mod choice;
mod exact;
#[path = "../support/random_model.rs"]
mod random_model;
