//! Low-rank adapters.

mod adapter;
mod config;
mod layout;
pub mod peft;

pub use adapter::LoraAdapter;
pub use config::LoraConfig;
pub use layout::{LoraGroup, LoraLayout, LoraModule};
