//! Hugging Face folders: `config.json`, optionally `generation_config.json`, and weights as safetensors or as torch's files, in one file or in
//! shards.

mod config;
mod model;
mod pickle;
mod pickle_value;
mod safetensors;
mod tensor_files;
mod torch;
mod zip;

pub use model::HuggingFaceFolder;
