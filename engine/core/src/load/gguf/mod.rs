//! GGUF files (versions 1 to 3, little-endian) of the llama architecture.

mod cursor;
mod header;
mod model;
mod names;
mod tokenizer;
mod value;

pub use model::GgufModel;
pub(crate) use value::MetadataValue;
