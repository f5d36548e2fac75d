//! Models and adapters in memory: immutable, shared.

use std::path::Path;

use super::backend::{AdapterMatrices, Backend, Weights};
use crate::error::{EngineError, Result};
use crate::load::{self, ModelMetadata};
use crate::lora::peft::{AdapterInfo, PeftAdapter, read_adapter};
use crate::ops::EmbeddingPlace;
use crate::quant::WeightStorage;

/// A base model on its device. Training, generation and scoring read the same tensors.
pub struct LoadedModel {
    /// What the files say, however the weights are held.
    pub metadata: ModelMetadata,
    /// How the weights of linear layers are held.
    pub storage: WeightStorage,
    pub(super) weights: Box<dyn Weights>,
}

/// An adapter beside its base.
pub struct LoadedAdapter {
    pub info: AdapterInfo,
    pub(super) matrices: AdapterMatrices,
}

impl LoadedModel {
    /// Reads a `.gguf` file or a Hugging Face folder and converts the weights of linear layers as `storage` says. `embedding`: where a GPU's
    /// embedding table is kept.
    ///
    /// Errors: `MODEL_NOT_FOUND`, `MODEL_CORRUPT`, `MODEL_UNSUPPORTED`, `IO`, `OUT_OF_MEMORY`.
    pub(super) fn load(
        backend: &dyn Backend,
        path: &Path,
        storage: WeightStorage,
        embedding: EmbeddingPlace,
    ) -> Result<Self> {
        let files = load::open(path)?;
        // The content hash reads everything, too; together they use the file while it is in memory, and the threads that one of them leaves idle.
        let (metadata, weights) = std::thread::scope(|scope| {
            let metadata = scope.spawn(|| files.metadata());
            let weights = backend.load(&*files, storage, embedding);
            (metadata.join(), weights)
        });
        let metadata = metadata.map_err(|_| EngineError::internal("reading what a model's files say panicked"))??;
        Ok(Self { metadata, storage, weights: weights? })
    }

    /// Bytes of the weights as they are held, mapped or in memory of their own.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.bytes()
    }

    /// The type of the linear layers' weights, such as `nf4`; as stored, the one that holds most bytes of the files.
    pub fn storage_type(&self) -> &str {
        self.storage.stored_type().map_or(&self.metadata.storage_type, |stored| stored.name())
    }

    /// Reads an adapter's files and checks that they belong to this model; with `any_base`, by names and shapes alone.
    ///
    /// Errors: `ADAPTER_NOT_FOUND`, `ADAPTER_CORRUPT`, `ADAPTER_MISMATCH`, `ADAPTER_UNSUPPORTED`, `IO`.
    pub fn read_adapter(&self, folder: &Path, any_base: bool) -> Result<(PeftAdapter, AdapterInfo)> {
        let base_hash = (!any_base).then_some(self.metadata.content_hash.as_str());
        read_adapter(folder, self.weights.config(), base_hash)
    }

    /// As [`Self::read_adapter`], ready to generate with: once on the device, for any number of requests.
    ///
    /// Errors: also `OUT_OF_MEMORY`.
    pub fn load_adapter(&self, folder: &Path, any_base: bool) -> Result<LoadedAdapter> {
        let (adapter, info) = self.read_adapter(folder, any_base)?;
        Ok(LoadedAdapter { info, matrices: self.weights.load_adapter(&adapter)? })
    }
}
