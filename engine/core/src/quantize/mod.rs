//! A model's linear layers quantized ahead of use: a checkpoint that transformers loads with bitsandbytes, and this engine as it is stored.
//!
//! One tensor at a time is converted and written; names and layout are those that [`crate::load`] reads.

mod config_json;
mod parts;
mod shard;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, json};

use crate::checkpoint::{Code, SAME_NAMES, copy_files, shard_name, shards, write_file, write_index};
use crate::error::{EngineError, ErrorCode, Result};
use crate::load::{self, ModelFiles, expected_tensors};
use crate::quant::{MatrixForm, WeightStorage, convert};
use crate::tensor::StoredType;
use parts::{Part, parts_of};
use shard::Shard;

/// What is quantized, and how.
pub struct QuantizeRequest<'a> {
    /// A Hugging Face folder whose weights have 16 or 32 bits.
    pub base: &'a Path,
    /// Int8 or nf4.
    pub storage: WeightStorage,
    /// Of the largest file; transformers writes 5 GB.
    pub shard_bytes: u64,
}

/// Bytes of tensors that are written, and those that will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantizeProgress {
    pub written_bytes: u64,
    pub total_bytes: u64,
}

/// A tensor of the base, and what it becomes.
struct Planned {
    name: String,
    /// None: it stays as it is.
    storage: WeightStorage,
    parts: Vec<Part>,
}

impl Planned {
    fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }
}

/// Writes the quantized model into an existing empty folder, forces it to disk, and returns its bytes. `config.json` comes last. A crash leaves
/// half a folder: give it its name afterwards. `progress` is called after each tensor; where it returns false, the work ends.
///
/// Errors: those of [`load::open`]; `INVALID_ARGUMENT` for another storage type; `MODEL_UNSUPPORTED` for a GGUF file, for a base that is
/// quantized already and for numbers beyond the type's range; `STORAGE_FULL`, `IO`; `CANCELLED`.
pub fn quantize(
    request: &QuantizeRequest<'_>,
    folder: &Path,
    progress: &mut dyn FnMut(QuantizeProgress) -> bool,
) -> Result<u64> {
    if !matches!(request.storage, WeightStorage::Int8 | WeightStorage::Nf4 { .. }) {
        let name = request.storage.name();
        return Err(EngineError::invalid(format!(
            "a model cannot be quantized to {name}; expected int8, nf4 or nf4_double_quant"
        )));
    }
    let files = load::open(request.base)?;
    let planned = plan(request, &*files)?;
    let linear = planned.iter().find(|tensor| tensor.storage != WeightStorage::Stored);
    let config = config_json::config_json(request, linear.map(|tensor| &*tensor.name), &*files)?;
    let shards = shards(&planned, Planned::bytes, request.shard_bytes);
    let total_bytes = planned.iter().map(Planned::bytes).sum();
    let mut done = QuantizeProgress { written_bytes: 0, total_bytes };
    let (mut bytes, mut index) = (0, Map::new());
    for (number, tensors) in shards.iter().enumerate() {
        let file = shard_name(number, shards.len());
        let parts: Vec<&Part> = tensors.iter().flat_map(|tensor| &tensor.parts).collect();
        let mut shard = Shard::create(&folder.join(&file), &parts)?;
        for tensor in *tensors {
            let source = files.tensor(&tensor.name)?;
            let original = source.stored;
            let converted = convert(&tensor.name, source, tensor.storage)?;
            parts::write(&converted, original, &tensor.parts, &mut shard)?;
            done.written_bytes += tensor.bytes();
            if !progress(done) {
                return Err(EngineError::new(ErrorCode::Cancelled, "the quantization was cancelled"));
            }
        }
        bytes += shard.finish()?;
        index.extend(parts.iter().map(|part| (part.name.clone(), json!(file))));
    }
    bytes += write_index(folder, shards.len(), total_bytes, index)?;
    bytes += copy_files(request.base, Code::LeftOut, folder)?;
    Ok(bytes + write_file(&folder.join("config.json"), config.as_bytes())?)
}

fn plan(request: &QuantizeRequest<'_>, files: &dyn ModelFiles) -> Result<Vec<Planned>> {
    let unsupported =
        |what: String| EngineError::new(ErrorCode::ModelUnsupported, format!("{}: {what}", request.base.display()));
    if !request.base.is_dir() {
        let what =
            "a GGUF file has no configuration and tokenizer that transformers reads; expected a Hugging Face folder";
        return Err(unsupported(what.into()));
    }
    let config = files.config();
    if !SAME_NAMES.contains(&config.model_type.as_str()) {
        let (found, known) = (&config.model_type, SAME_NAMES.join(", "));
        return Err(unsupported(format!("models of type `{found}` are not quantized ahead; supported: {known}")));
    }
    let expected: BTreeMap<String, Vec<usize>> = expected_tensors(config);
    let planned = expected.into_iter().map(|(name, shape)| {
        let stored = files.tensor(&name)?.stored;
        if !matches!(stored, StoredType::F32 | StoredType::F16 | StoredType::BF16) {
            let kind = stored.name();
            return Err(unsupported(format!(
                "`{name}` is quantized already ({kind}); expected a model in 16 or 32 bits"
            )));
        }
        let is_linear = name.contains(".layers.") && name.ends_with("_proj.weight");
        let storage = if is_linear { request.storage } else { WeightStorage::Stored };
        let parts = match shape[..] {
            [rows, columns] => {
                let form = MatrixForm { rows, columns, stored, double_quant: false, mapped: false };
                parts_of(&name, form.converted(storage))
            }
            _ => vec![Part::plain(&name, stored, &shape)],
        };
        Ok(Planned { name, storage, parts })
    });
    planned.collect()
}
