//! Hugging Face folders: `config.json`, optionally `generation_config.json`, and weights as safetensors or as torch's files, in one file or in
//! shards.

mod bitsandbytes;
mod config;
mod families;
mod fields;
mod model;
mod safetensors;
mod tensor_files;
mod torch;

pub(crate) use families::{Locations, TensorNames, names_of};
pub use model::HuggingFaceFolder;
pub(crate) use tensor_files::{ElementType, FileTensor, NamedTensors, read_tensors};
