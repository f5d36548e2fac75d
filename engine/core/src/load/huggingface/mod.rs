//! Hugging Face folders: `config.json`, optionally `generation_config.json`, and weights as safetensors or as torch's files, in one file or in
//! shards.

mod bitsandbytes;
mod config;
mod model;
mod safetensors;
mod tensor_files;
mod torch;

pub use model::HuggingFaceFolder;
