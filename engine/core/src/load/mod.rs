//! Readers of model files: a GGUF file or a Hugging Face folder. They map files, check them, and hand out tensors in their stored type under
//! Hugging Face names. No arithmetic and no tokenizer here.

mod content_hash;
mod expected;
pub mod gguf;
pub mod huggingface;
mod mapped;
mod metadata;

use std::collections::BTreeMap;
use std::path::Path;

pub use metadata::{GgufTokenizerMetadata, ModelMetadata, TokenizerSource};

use crate::config::ModelConfig;
use crate::error::{EngineError, ErrorCode, Result};
use crate::model::TensorSource;
use crate::tensor::HostTensor;
use content_hash::HashedTensor;
pub(crate) use content_hash::hex;
pub(crate) use expected::{LINEAR_MODULES, expected_tensors};
pub(crate) use huggingface::{ElementType, FileTensor, Locations, NamedTensors, TensorNames, names_of, read_tensors};

/// Opened and checked files of one model. Every tensor that the configuration calls for is present with the right shape.
pub trait ModelFiles: TensorSource + Send + Sync {
    /// What the files say. The first call reads every tensor's bytes once, for the content hash; later calls answer from memory.
    fn metadata(&self) -> Result<ModelMetadata>;

    /// Tensors that the files have although they follow from the configuration, by the files' names: tables of rope, which a family's own code
    /// may want to find.
    fn derived_tensors(&self) -> Vec<(String, HostTensor)> {
        Vec::new()
    }
}

/// Opens a `.gguf` file or a Hugging Face folder (`config.json`, and safetensors or torch's files).
///
/// Only headers are read. The files must not be changed while the result, or a tensor from it, is alive: they are memory-mapped.
///
/// Errors: `MODEL_NOT_FOUND`, `MODEL_CORRUPT` (truncated, malformed, missing or misshapen tensors), `MODEL_UNSUPPORTED` (another
/// architecture or feature, by name), `IO`.
pub fn open(path: &Path) -> Result<Box<dyn ModelFiles>> {
    let kind = match std::fs::metadata(path) {
        Ok(kind) => kind,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            let message = format!(
                "no model at {}: expected a .gguf file or a folder with config.json and weights",
                path.display()
            );
            return Err(EngineError::new(ErrorCode::ModelNotFound, message));
        }
        Err(error) => return Err(EngineError::io("look at", path, &error)),
    };
    if kind.is_dir() {
        Ok(Box::new(huggingface::HuggingFaceFolder::open(path)?))
    } else {
        Ok(Box::new(gguf::GgufModel::open(path)?))
    }
}

/// Names that LoRA's targets may have: Llama's, and those of the family's own.
pub(crate) fn linear_modules(model_type: &str) -> Vec<String> {
    let own = names_of(model_type).modules.iter().map(|(path, _)| path.rsplit('.').next().unwrap_or(path));
    LINEAR_MODULES.into_iter().chain(own).map(str::to_owned).collect()
}

/// Fills in [`ModelMetadata`] from a configuration and the tensors as they lie in the files.
fn summarize(
    path: &Path,
    format: &str,
    name: String,
    config: &ModelConfig,
    tensors: Vec<HashedTensor<'_>>,
    tokenizer: TokenizerSource,
) -> ModelMetadata {
    let mut bytes_by_type: BTreeMap<&str, u64> = BTreeMap::new();
    for tensor in &tensors {
        *bytes_by_type.entry(tensor.stored.name()).or_default() += tensor.len() as u64;
    }
    let storage_type = bytes_by_type.iter().max_by_key(|(_, bytes)| **bytes).map_or("", |(name, _)| *name).to_owned();
    ModelMetadata {
        path: path.display().to_string(),
        format: format.to_owned(),
        architecture: config.model_type.clone(),
        name,
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_hidden_layers: config.num_hidden_layers,
        num_attention_heads: config.num_attention_heads,
        num_key_value_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        max_position_embeddings: config.max_position_embeddings,
        tie_word_embeddings: config.tie_word_embeddings,
        rope_theta: config.rope_theta,
        rms_norm_eps: config.rms_norm_eps,
        parameter_count: tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum(),
        stored_bytes: bytes_by_type.values().sum(),
        storage_type,
        content_hash: content_hash::content_hash(config, tensors),
        eos_token_ids: config.eos_token_ids.clone(),
        linear_modules: linear_modules(&config.model_type),
        tokenizer,
    }
}
