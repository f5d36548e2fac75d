//! Hugging Face folders: `config.json`, optionally `generation_config.json`, and safetensors in one file or in shards.

mod config;
mod model;
mod safetensors;

pub use model::HuggingFaceFolder;
