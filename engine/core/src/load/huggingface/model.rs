//! A model in a Hugging Face folder.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::config::read_config;
use super::families::{Locations, names_of};
use super::safetensors::TensorFiles;
use crate::config::ModelConfig;
use crate::error::{EngineError, ErrorCode, Result};
use crate::load::content_hash::HashedTensor;
use crate::load::expected::{check_sizes, check_tensors, expected_tensors};
use crate::load::metadata::{ModelMetadata, TokenizerSource};
use crate::load::{ModelFiles, summarize};
use crate::model::TensorSource;
use crate::tensor::HostTensor;

/// An opened folder whose tensors are exactly those of its configuration.
pub struct HuggingFaceFolder {
    folder: PathBuf,
    config: ModelConfig,
    weights: TensorFiles,
    locations: Locations,
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
        let (expected, locations) = names_of(&config.model_type).locate(&expected_tensors(&config));
        check_tensors(&expected, found).map_err(&corrupt)?;
        Ok(Self { folder: folder.to_path_buf(), config, weights, locations, metadata: OnceLock::new() })
    }
}

impl HuggingFaceFolder {
    /// A whole tensor of the files, by its own name.
    fn stored(&self, name: &str) -> Result<HostTensor> {
        let place = self.weights.tensors.get(name);
        let place = place.ok_or_else(|| EngineError::internal(format!("the folder has no tensor `{name}`")))?;
        Ok(self.weights.files[place.file].tensor(place.stored, place.shape.clone(), place.window.clone()))
    }
}

/// Tensors that some exporters write although they follow from the others: rope tables, and the output layer of a tied model.
fn is_derived(name: &str, config: &ModelConfig) -> bool {
    let output_layer = || names_of(&config.model_type).of_module("lm_head").0;
    name.ends_with(".inv_freq")
        || (config.tie_word_embeddings && name.strip_suffix(".weight") == Some(output_layer().as_str()))
}

impl TensorSource for HuggingFaceFolder {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn tensor(&self, name: &str) -> Result<HostTensor> {
        let location = self.locations.get(name);
        let location = location.ok_or_else(|| EngineError::internal(format!("the model has no tensor `{name}`")))?;
        let tensor = self.stored(&location.name)?;
        match &location.rows {
            None => Ok(tensor),
            Some(rows) => tensor.rows(rows.clone()).map_err(|error| {
                EngineError::new(
                    error.code,
                    format!("{}: `{}`: {}", self.folder.display(), location.name, error.message),
                )
            }),
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
        let tensors = self.weights.tensors.iter().map(|(name, place)| {
            let bytes = &self.weights.files[place.file].map[place.window.clone()];
            HashedTensor { name, stored: place.stored, shape: &place.shape, bytes }
        });
        let metadata = summarize(&self.folder, "safetensors", name, &self.config, tensors.collect(), tokenizer);
        Ok(self.metadata.get_or_init(|| metadata).clone())
    }
}
