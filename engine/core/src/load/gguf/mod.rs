//! GGUF files (versions 1 to 3, little-endian) of llama and its relatives, with llama.cpp's names and order of rows.

mod architectures;
mod config;
mod cursor;
mod header;
mod model;
mod names;
mod tokenizer;
mod value;

pub(crate) use architectures::{Architecture, architecture_of};
pub(crate) use config::ROPE_FACTORS;
pub use model::GgufModel;
pub(crate) use value::MetadataValue;
