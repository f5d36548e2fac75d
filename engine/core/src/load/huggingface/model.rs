//! A model in a Hugging Face folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::config::read_config;
use super::families::{Location, Locations, names_of};
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
    /// Tables of rope.
    derived: BTreeMap<String, Place>,
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
        let (derived, mut tensors): (BTreeMap<_, _>, BTreeMap<_, _>) =
            weights.tensors.into_iter().partition(|(name, _)| name.ends_with(".inv_freq"));
        tensors.retain(|name, _| !is_output_layer_of_tied(name, &config));
        weights.tensors = tensors;
        let found = weights.tensors.iter().map(|(name, place)| (name.as_str(), place.shape.as_slice()));
        let (expected, locations) = names_of(&config.model_type).locate(&expected_tensors(&config));
        check_tensors(&expected, found).map_err(&corrupt)?;
        let table = locations.get("model.embed_tokens.weight").map(|location| location.name.as_str());
        if let Some(table) = table
            && weights.tensors.get(table).is_some_and(|place| place.scales.is_some())
        {
            let message = format!("{}: `{table}` is quantized; expected it in 16 or 32 bits", folder.display());
            return Err(EngineError::new(ErrorCode::ModelUnsupported, message));
        }
        Ok(Self { folder: folder.to_path_buf(), config, weights, derived, locations, metadata: OnceLock::new() })
    }
}

/// The output layer of a tied model, which some exporters write although it is the embedding table.
fn is_output_layer_of_tied(name: &str, config: &ModelConfig) -> bool {
    let output_layer = || names_of(&config.model_type).of_module("lm_head").0;
    config.tie_word_embeddings && name.strip_suffix(".weight") == Some(output_layer().as_str())
}

impl HuggingFaceFolder {
    /// Where one of Llama's tensors lies.
    fn location(&self, name: &str) -> Result<&Location> {
        let location = self.locations.get(name);
        location.ok_or_else(|| EngineError::internal(format!("the model has no tensor `{name}`")))
    }

    /// A tensor of the files, by its own name.
    fn place(&self, name: &str) -> Result<&Place> {
        let place = self.weights.tensors.get(name);
        place.ok_or_else(|| EngineError::internal(format!("the folder has no tensor `{name}`")))
    }
}

impl TensorSource for HuggingFaceFolder {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn tensor(&self, name: &str) -> Result<HostTensor> {
        let location = self.location(name)?;
        let tensor = self.weights.tensor(self.place(&location.name)?);
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

    /// Without reading scales.
    fn form(&self, name: &str) -> Result<MatrixForm> {
        let location = self.location(name)?;
        let quantized = self.weights.quantized_form(self.place(&location.name)?);
        match quantized.filter(|_| location.rows.is_none()) {
            Some(form) => Ok(form),
            None => MatrixForm::of(name, &self.tensor(name)?),
        }
    }
}

impl ModelFiles for HuggingFaceFolder {
    fn derived_tensors(&self) -> Vec<(String, HostTensor)> {
        self.derived.iter().map(|(name, place)| (name.clone(), self.weights.tensor(place))).collect()
    }

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
