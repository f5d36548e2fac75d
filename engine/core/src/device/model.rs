//! Models and adapters in memory: immutable, shared.

use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::load::{self, ModelMetadata};
use crate::lora::peft::{AdapterInfo, PeftAdapter, read_adapter};
use crate::model::BaseModel;
use crate::ops::cpu::CpuOps;
use crate::ops::cpu::decode_model::{DecodeAdapter, DecodeModel};

/// A base model. Training and decoding read the same memory-mapped tensors.
pub struct LoadedModel {
    pub metadata: ModelMetadata,
    pub(super) base: Arc<BaseModel<CpuOps<f32>>>,
    pub(super) decode: Arc<DecodeModel>,
}

/// An adapter beside its base.
pub struct LoadedAdapter {
    pub info: AdapterInfo,
    pub(super) decode: Arc<DecodeAdapter>,
}

impl LoadedModel {
    /// Reads a `.gguf` file or a Hugging Face folder.
    ///
    /// Errors: `MODEL_NOT_FOUND`, `MODEL_CORRUPT`, `MODEL_UNSUPPORTED`, `IO`, `OUT_OF_MEMORY`.
    pub(super) fn load(ops: &CpuOps<f32>, path: &Path) -> Result<Self> {
        let files = load::open(path)?;
        Ok(Self {
            metadata: files.metadata()?,
            base: Arc::new(BaseModel::load(ops, &*files)?),
            decode: Arc::new(DecodeModel::new(&*files)?),
        })
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
