//! Hugging Face folders: `config.json`, optionally `generation_config.json`, and safetensors in one file or in shards.

mod config;
mod families;
mod fields;
mod model;
mod safetensors;

pub(crate) use families::{TensorNames, names_of};
pub use model::HuggingFaceFolder;
