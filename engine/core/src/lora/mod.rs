//! Low-rank adapters.

mod adapter;
mod config;
mod layout;
pub mod peft;
mod targets;

pub use adapter::LoraAdapter;
pub use config::LoraConfig;
pub(crate) use layout::module_path;
pub use layout::{LoraGroup, LoraLayout, LoraModule, LowRank};
pub(crate) use targets::TargetRules;
pub use targets::{LoraTargets, ModuleNames};
