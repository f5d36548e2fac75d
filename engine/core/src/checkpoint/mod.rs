//! What every checkpoint that is written has, as transformers lays it out: safetensors in shards with an index, the base's other files.

mod files;
mod shards;

pub(crate) use files::{Code, copy_files, write_file};
pub(crate) use shards::{header_bytes, shard_name, shards, write_index};

/// Bytes of the largest safetensors file, as transformers writes them.
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// `model_type`s whose checkpoints hold the tensors under the names that the engine has for them.
pub(crate) const SAME_NAMES: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];
