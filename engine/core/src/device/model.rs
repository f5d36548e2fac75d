//! Models and adapters in memory: immutable, shared.

use std::path::Path;
use std::sync::Arc;

use super::backend::Backend;
use crate::error::Result;
use crate::load::{self, ModelMetadata};
use crate::lora::peft::{AdapterInfo, PeftAdapter, read_adapter};
use crate::model::{BaseModel, LINEAR_MODULES, LayerWeights};
use crate::ops::EmbeddingPlace;
use crate::ops::cpu::decode_model::{DecodeAdapter, DecodeModel};
use crate::ops::cpu::{CpuBuffer, CpuOps, CpuWeight};
#[cfg(feature = "cuda")]
use crate::ops::cuda::CudaOps;
use crate::quant::WeightStorage;

/// A base model. Training and decoding read the same tensors.
pub struct LoadedModel {
    /// What the files say, however the weights are held.
    pub metadata: ModelMetadata,
    /// How the weights of linear layers are held.
    pub storage: WeightStorage,
    pub(super) base: Arc<BaseModel<CpuOps<f32>>>,
    pub(super) decode: Arc<DecodeModel>,
    /// Where a GPU trains.
    #[cfg(feature = "cuda")]
    pub(super) gpu: Option<Arc<BaseModel<CudaOps>>>,
}

/// An adapter beside its base.
pub struct LoadedAdapter {
    pub info: AdapterInfo,
    pub(super) decode: Arc<DecodeAdapter>,
}

impl LoadedModel {
    /// Reads a `.gguf` file or a Hugging Face folder and converts the weights of linear layers as `storage` says. `embedding`: where a GPU's
    /// embedding table is kept.
    ///
    /// Errors: `MODEL_NOT_FOUND`, `MODEL_CORRUPT`, `MODEL_UNSUPPORTED`, `IO`, `OUT_OF_MEMORY`.
    pub(super) fn load(
        backend: &Backend,
        path: &Path,
        storage: WeightStorage,
        embedding: EmbeddingPlace,
    ) -> Result<Self> {
        let files = load::open(path)?;
        let metadata = files.metadata()?;
        let base = Arc::new(BaseModel::load_placed(&*backend.processor, &*files, storage, embedding)?);
        Ok(Self {
            metadata,
            storage,
            decode: Arc::new(DecodeModel::new(&base)),
            base,
            #[cfg(feature = "cuda")]
            gpu: backend.load_on_gpu(&*files, storage, embedding)?,
        })
    }

    /// Bytes of the weights as they are held, mapped or in memory of their own.
    pub fn weight_bytes(&self) -> u64 {
        let base = &*self.base;
        let matrix = |weight: &CpuWeight| weight.tensor().size_bytes() as u64;
        let norm = |norm: &CpuBuffer<f32>| size_of_val(norm.as_slice()) as u64;
        let layer = |layer: &LayerWeights<CpuOps<f32>>| {
            let linears = LINEAR_MODULES.map(|module| matrix(&layer.linear(module).weight));
            norm(&layer.input_norm) + norm(&layer.post_attention_norm) + linears.iter().sum::<u64>()
        };
        let tables = matrix(&base.embed_tokens) + base.lm_head.as_ref().map_or(0, matrix);
        base.layers.iter().map(layer).sum::<u64>() + norm(&base.norm) + tables
    }

    /// The type of the linear layers' weights, such as `nf4`; as stored, the one that holds most bytes of the files.
    pub fn storage_type(&self) -> &str {
        self.storage.stored_type().map_or(&self.metadata.storage_type, |stored| stored.name())
    }

    /// Reads an adapter's files and checks that they belong to this model.
    ///
    /// Errors: `ADAPTER_NOT_FOUND`, `ADAPTER_CORRUPT`, `ADAPTER_MISMATCH`, `ADAPTER_UNSUPPORTED`, `IO`.
    pub fn read_adapter(&self, folder: &Path) -> Result<(PeftAdapter, AdapterInfo)> {
        read_adapter(folder, &self.base.config, &self.metadata.content_hash)
    }

    /// As [`Self::read_adapter`], ready to generate with.
    pub fn load_adapter(&self, folder: &Path) -> Result<LoadedAdapter> {
        let (adapter, info) = self.read_adapter(folder)?;
        Ok(LoadedAdapter { info, decode: Arc::new(DecodeAdapter::new(&self.base.config, &adapter)) })
    }
}
