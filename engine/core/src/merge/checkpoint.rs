//! A merged checkpoint as transformers lays it out: configuration, safetensors in shards with an index, the tokenizer's files.

use std::cmp::Reverse;
use std::path::Path;

use serde_json::{Map, json};

use super::MergeRequest;
use super::config_json::config_json;
use super::encode::floats;
use super::output::Output;
use super::tensor::MergedTensors;
use super::written::{Written, written};
use crate::checkpoint::{Code, copy_files, header_bytes, shard_name, shards, write_file, write_index};
use crate::error::{EngineError, Result};
use crate::load::names_of;
use crate::tensor::{HostTensor, StoredType};

/// A tensor of the files.
enum Entry {
    Merged(Written),
    /// One that the base's folder has beside those: rope's table, which the family's own code may look for.
    Kept(String, HostTensor),
}

impl Entry {
    fn name(&self) -> &str {
        match self {
            Self::Merged(written) => &written.name,
            Self::Kept(name, _) => name,
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Self::Merged(written) => &written.shape,
            Self::Kept(_, tensor) => &tensor.shape,
        }
    }

    /// `merged`: of the tensors that are merged.
    fn stored(&self, merged: StoredType) -> StoredType {
        match self {
            Self::Merged(_) => merged,
            Self::Kept(_, tensor) => tensor.stored,
        }
    }

    fn bytes(&self, merged: StoredType) -> u64 {
        (self.shape().iter().product::<usize>() * self.stored(merged).block_bytes()) as u64
    }
}

/// Writes the folder and returns its bytes.
pub(super) fn write(
    request: &MergeRequest<'_>,
    source: &MergedTensors<'_>,
    stored: StoredType,
    folder: &Path,
) -> Result<u64> {
    let config = config_json(request.base, source.config(), stored)?;
    let names = names_of(&source.config().model_type);
    let kept = source.kept_tensors().into_iter().map(|(name, tensor)| Entry::Kept(name, tensor));
    let mut entries: Vec<Entry> = written(names, source.shapes()).into_iter().map(Entry::Merged).chain(kept).collect();
    // f32 begins at a multiple of four bytes.
    entries.sort_by_key(|entry| Reverse(entry.stored(stored).alignment()));
    let shards = shards(&entries, |entry| entry.bytes(stored), request.shard_bytes);
    let mut bytes = 0;
    let mut index = Map::new();
    for (number, entries) in shards.iter().enumerate() {
        let file = shard_name(number, shards.len());
        bytes += write_shard(source, entries, stored, &folder.join(&file))?;
        index.extend(entries.iter().map(|entry| (entry.name().to_owned(), json!(file))));
    }
    let total = entries.iter().map(|entry| entry.bytes(stored)).sum();
    bytes += write_index(folder, shards.len(), total, index)?;
    if request.base.is_dir() {
        bytes += copy_files(request.base, Code::Copied, folder)?;
    }
    // Last: a folder that has it is complete.
    Ok(bytes + write_file(&folder.join("config.json"), config.as_bytes())?)
}

/// A safetensors file whose tensors lie one after another.
fn write_shard(source: &MergedTensors<'_>, entries: &[Entry], stored: StoredType, path: &Path) -> Result<u64> {
    let mut header = Map::new();
    let mut end = 0;
    for entry in entries {
        let start = end;
        end += entry.bytes(stored);
        let dtype = match entry.stored(stored) {
            StoredType::F32 => "F32",
            StoredType::F16 => "F16",
            _ => "BF16",
        };
        let place = json!({ "dtype": dtype, "shape": entry.shape(), "data_offsets": [start, end] });
        header.insert(entry.name().to_owned(), place);
    }
    let mut output = Output::create(path)?;
    output.write(&header_bytes(header))?;
    let (start, mut bytes) = (output.bytes(), Vec::new());
    for entry in entries {
        match entry {
            Entry::Kept(_, tensor) => output.write(tensor.bytes.as_slice())?,
            Entry::Merged(written) => {
                for part in &written.parts {
                    source.open(part)?.for_each_piece(|numbers| {
                        floats(part, stored, numbers, &mut bytes)?;
                        output.write(&bytes)
                    })?;
                }
            }
        }
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
