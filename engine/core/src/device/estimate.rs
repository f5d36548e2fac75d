//! What a run would need, asked before its model is loaded.

use std::path::PathBuf;

use super::backend::Backend;
use crate::error::Result;
use crate::load;
use crate::lora::peft::read_adapter;
use crate::model::{Examples, WeightForms};
use crate::ops::EmbeddingPlace;
use crate::quant::WeightStorage;
use crate::train::{EstimateRequest, TrainConfig, TrainingEstimate};

/// A run that may be started later.
pub struct EstimateQuery {
    /// A `.gguf` file or a Hugging Face folder. Only headers are read.
    pub path: PathBuf,
    pub storage: WeightStorage,
    /// Where the embedding table is kept, or is to be.
    pub embedding: EmbeddingPlace,
    /// Whether the model is loaded in this form.
    pub loaded: bool,
    pub config: TrainConfig,
    pub train: Box<dyn Examples>,
    pub evaluation: Option<Box<dyn Examples>>,
    /// Folder of an adapter to start from, and the content hash of the base that it must belong to; without one, any that it fits.
    pub initial: Option<(PathBuf, Option<String>)>,
}

impl EstimateQuery {
    pub(super) fn estimate(&self, backend: &dyn Backend) -> Result<TrainingEstimate> {
        let files = load::open(&self.path)?;
        let weights = WeightForms::read(&*files, self.storage, self.embedding)?;
        let read = |(folder, hash): &(PathBuf, Option<String>)| read_adapter(folder, files.config(), hash.as_deref());
        let initial = self.initial.as_ref().map(read).transpose()?;
        backend.estimate(&EstimateRequest {
            model: files.config(),
            weights: &weights,
            loaded: self.loaded,
            config: &self.config,
            train: &*self.train,
            evaluation: self.evaluation.as_deref(),
            initial: initial.as_ref().map(|(adapter, _)| adapter),
        })
    }
}
