//! How tensors are spread over safetensors files.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::files::write_file;
use crate::error::Result;

/// In the order given; a file is as large as allowed, or holds one tensor. Without tensors, one empty file.
pub(crate) fn shards<T>(tensors: &[T], size: impl Fn(&T) -> u64, limit: u64) -> Vec<&[T]> {
    let mut shards = Vec::new();
    let (mut first, mut filled) = (0, 0);
    for (index, tensor) in tensors.iter().enumerate() {
        let size = size(tensor);
        if filled > 0 && filled + size > limit {
            shards.push(&tensors[first..index]);
            (first, filled) = (index, 0);
        }
        filled += size;
    }
    shards.push(&tensors[first..]);
    shards
}

/// Name of shard `number`, from 0, of so many.
pub(crate) fn shard_name(number: usize, count: usize) -> String {
    match count {
        1 => "model.safetensors".to_owned(),
        count => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
    }
}

/// Writes the index of several shards and returns its bytes; one shard needs none. `files`: by tensor; `total`: bytes of tensors.
pub(crate) fn write_index(folder: &Path, shard_count: usize, total: u64, files: Map<String, Value>) -> Result<u64> {
    if shard_count == 1 {
        return Ok(0);
    }
    let index = json!({ "metadata": { "total_size": total }, "weight_map": files });
    write_file(&folder.join("model.safetensors.index.json"), format!("{index:#}\n").as_bytes())
}

/// The beginning of a safetensors file with these tensors: eight bytes of the header's length, then the header, filled up so that tensors begin
/// at a multiple of 8.
pub(crate) fn header_bytes(mut tensors: Map<String, Value>) -> Vec<u8> {
    tensors.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut header = Value::Object(tensors).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes(), header.as_slice()].concat()
}
