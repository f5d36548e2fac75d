//! A merged checkpoint as transformers lays it out: configuration, safetensors in shards with an index, the tokenizer's files.

use std::path::Path;

use serde_json::{Map, json};

use super::MergeRequest;
use super::config_json::config_json;
use super::encode::floats;
use super::output::Output;
use super::tensor::MergedTensors;
use crate::checkpoint::{Code, copy_files, header_bytes, shard_name, shards, write_file, write_index};
use crate::error::{EngineError, Result};
use crate::tensor::StoredType;

/// Writes the folder and returns its bytes.
pub(super) fn write(
    request: &MergeRequest<'_>,
    source: &MergedTensors<'_>,
    stored: StoredType,
    folder: &Path,
) -> Result<u64> {
    let config = config_json(request.base, source.config(), stored)?;
    let names: Vec<&str> = source.shapes().keys().map(String::as_str).collect();
    let bytes_of = |name: &str| size(&source.shapes()[name], stored);
    let shards = shards(&names, |name| bytes_of(name), request.shard_bytes);
    let mut bytes = 0;
    let mut index = Map::new();
    for (number, names) in shards.iter().enumerate() {
        let file = shard_name(number, shards.len());
        bytes += write_shard(source, names, stored, &folder.join(&file))?;
        index.extend(names.iter().map(|name| ((*name).to_owned(), json!(file))));
    }
    bytes += write_index(folder, shards.len(), names.iter().map(|name| bytes_of(name)).sum(), index)?;
    if request.base.is_dir() {
        bytes += copy_files(request.base, Code::Copied, folder)?;
    }
    // Last: a folder that has it is complete.
    Ok(bytes + write_file(&folder.join("config.json"), config.as_bytes())?)
}

fn size(shape: &[usize], stored: StoredType) -> u64 {
    (shape.iter().product::<usize>() * stored.block_bytes()) as u64
}

/// A safetensors file whose tensors lie one after another.
fn write_shard(source: &MergedTensors<'_>, names: &[&str], stored: StoredType, path: &Path) -> Result<u64> {
    let dtype = if stored == StoredType::F16 { "F16" } else { "BF16" };
    let mut header = Map::new();
    let mut end = 0;
    for name in names {
        let shape = &source.shapes()[*name];
        let start = end;
        end += size(shape, stored);
        header.insert((*name).to_owned(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] }));
    }
    let mut output = Output::create(path)?;
    output.write(&header_bytes(header))?;
    let (start, mut bytes) = (output.bytes(), Vec::new());
    for name in names {
        source.open(name)?.for_each_piece(|numbers| {
            floats(name, stored, numbers, &mut bytes)?;
            output.write(&bytes)
        })?;
    }
    if output.bytes() - start != end {
        return Err(EngineError::internal(format!(
            "{}: {} bytes of tensors, expected {end}",
            path.display(),
            output.bytes() - start
        )));
    }
    output.finish()
}
