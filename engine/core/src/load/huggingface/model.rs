//! A Llama or Mistral model in a Hugging Face folder.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::config::read_config;
use super::tensor_files::{Place, TensorFiles};
use crate::config::ModelConfig;
use crate::error::{EngineError, ErrorCode, Result};
use crate::load::expected::{check_sizes, check_tensors, expected_tensors};
use crate::load::metadata::{ModelMetadata, TokenizerSource};
use crate::load::{ModelFiles, summarize};
use crate::model::TensorSource;
use crate::quant::MatrixForm;
use crate::tensor::HostTensor;

/// An opened folder whose tensors are exactly those of its configuration.
pub struct HuggingFaceFolder {
    folder: PathBuf,
    config: ModelConfig,
    weights: TensorFiles,
    metadata: OnceLock<ModelMetadata>,
}

impl HuggingFaceFolder {
    /// Maps and checks the folder; see [`crate::load::open`] for the errors.
    pub fn open(folder: &Path) -> Result<Self> {
        let corrupt = |what: String| EngineError::new(ErrorCode::ModelCorrupt, format!("{}: {what}", folder.display()));
        let config = read_config(folder)?;
        check_sizes(&config).map_err(&corrupt)?;
        let mut weights = TensorFiles::open(folder)?;
        weights.tensors.retain(|name, _| !is_derived(name, &config));
        let found = weights.tensors.iter().map(|(name, place)| (name.as_str(), place.shape.as_slice()));
        check_tensors(&expected_tensors(&config), found).map_err(&corrupt)?;
        let table = "model.embed_tokens.weight";
        if weights.tensors.get(table).is_some_and(|place| place.scales.is_some()) {
            let message = format!("{}: `{table}` is quantized; expected it in 16 or 32 bits", folder.display());
            return Err(EngineError::new(ErrorCode::ModelUnsupported, message));
        }
        Ok(Self { folder: folder.to_path_buf(), config, weights, metadata: OnceLock::new() })
    }
}

/// Tensors that some exporters write although they follow from the others: rope tables, and the output layer of a tied model.
fn is_derived(name: &str, config: &ModelConfig) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || (config.tie_word_embeddings && name == "lm_head.weight")
}

impl HuggingFaceFolder {
    fn place(&self, name: &str) -> Result<&Place> {
        let place = self.weights.tensors.get(name);
        place.ok_or_else(|| EngineError::internal(format!("the model has no tensor `{name}`")))
    }
}

impl TensorSource for HuggingFaceFolder {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn tensor(&self, name: &str) -> Result<HostTensor> {
        Ok(self.weights.tensor(self.place(name)?))
    }

    /// Without reading scales.
    fn form(&self, name: &str) -> Result<MatrixForm> {
        match self.weights.quantized_form(self.place(name)?) {
            Some(form) => Ok(form),
            None => MatrixForm::of(name, &self.tensor(name)?),
        }
    }
}

impl ModelFiles for HuggingFaceFolder {
    fn metadata(&self) -> Result<ModelMetadata> {
        if let Some(metadata) = self.metadata.get() {
            return Ok(metadata.clone());
        }
        let full = std::fs::canonicalize(&self.folder).unwrap_or_else(|_| self.folder.clone());
        let name = full.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let tokenizer = TokenizerSource::HuggingFace(self.folder.clone());
        let tensors = self.weights.tensors.iter().map(|(name, place)| self.weights.hashed(name, place));
        let metadata = summarize(&self.folder, self.weights.format, name, &self.config, tensors.collect(), tokenizer);
        Ok(self.metadata.get_or_init(|| metadata).clone())
    }
}
