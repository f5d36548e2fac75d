//! A merged checkpoint as transformers lays it out: configuration, safetensors in shards with an index, the tokenizer's files.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::MergeRequest;
use super::config_json::config_json;
use super::encode::floats;
use super::output::{Output, write_file};
use super::tensor::MergedTensors;
use crate::error::{EngineError, Result};
use crate::tensor::StoredType;

/// What a folder has beside weights and configuration that a copy needs: generation settings, tokenizer, template, and code of models that
/// transformers does not know itself.
const COPIED: [&str; 11] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];

/// Writes the folder and returns its bytes.
pub(super) fn write(
    request: &MergeRequest<'_>,
    source: &MergedTensors<'_>,
    stored: StoredType,
    folder: &Path,
) -> Result<u64> {
    let config = config_json(request.base, source.config(), stored)?;
    let shards = shards(source.shapes(), stored, request.shard_bytes);
    let mut bytes = 0;
    let mut index = Map::new();
    for (number, names) in shards.iter().enumerate() {
        let file = match shards.len() {
            1 => "model.safetensors".to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
        };
        bytes += write_shard(source, names, stored, &folder.join(&file))?;
        index.extend(names.iter().map(|name| ((*name).to_owned(), json!(file))));
    }
    if shards.len() > 1 {
        let total: u64 = source.shapes().values().map(|shape| size(shape, stored)).sum();
        let index = json!({ "metadata": { "total_size": total }, "weight_map": index });
        bytes += write_file(&folder.join("model.safetensors.index.json"), format!("{index:#}\n").as_bytes())?;
    }
    if request.base.is_dir() {
        bytes += copy_files(request.base, folder)?;
    }
    // Last: a folder that has it is complete.
    Ok(bytes + write_file(&folder.join("config.json"), config.as_bytes())?)
}

fn size(shape: &[usize], stored: StoredType) -> u64 {
    (shape.iter().product::<usize>() * stored.block_bytes()) as u64
}

/// Names by file, in the order of names; a file is as large as allowed, or holds one tensor.
fn shards(shapes: &BTreeMap<String, Vec<usize>>, stored: StoredType, limit: u64) -> Vec<Vec<&str>> {
    let mut shards: Vec<Vec<&str>> = vec![Vec::new()];
    let mut filled = 0;
    for (name, shape) in shapes {
        let size = size(shape, stored);
        if filled > 0 && filled + size > limit {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += size;
        if let Some(last) = shards.last_mut() {
            last.push(name);
        }
    }
    shards
}

/// safetensors: eight bytes of the header's length, the header as JSON, the tensors one after another.
fn write_shard(source: &MergedTensors<'_>, names: &[&str], stored: StoredType, path: &Path) -> Result<u64> {
    let dtype = if stored == StoredType::F16 { "F16" } else { "BF16" };
    let mut header = Map::from_iter([("__metadata__".to_owned(), json!({ "format": "pt" }))]);
    let mut end = 0;
    for name in names {
        let shape = &source.shapes()[*name];
        let start = end;
        end += size(shape, stored);
        header.insert((*name).to_owned(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] }));
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // Tensors begin at a multiple of 8.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut output = Output::create(path)?;
    output.write(&(header.len() as u64).to_le_bytes())?;
    output.write(&header)?;
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

fn copy_files(base: &Path, folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    let entries = std::fs::read_dir(base).map_err(|cause| EngineError::io("read", base, &cause))?;
    for entry in entries {
        let entry = entry.map_err(|cause| EngineError::io("read", base, &cause))?;
        let name = entry.file_name();
        let Some(text) = name.to_str() else { continue };
        if (COPIED.contains(&text) || text.ends_with(".py")) && entry.path().is_file() {
            let contents =
                std::fs::read(entry.path()).map_err(|cause| EngineError::io("read", &entry.path(), &cause))?;
            bytes += write_file(&folder.join(&name), &contents)?;
        }
    }
    Ok(bytes)
}
