//! The engine object.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use luthier_core::device::{Device, DeviceList, EstimateQuery};
use luthier_core::load;
use luthier_core::lora::LoraConfig;
use luthier_core::lora::peft::read_adapter_info;
use luthier_core::merge::{MergeRequest, merge};
use luthier_core::ops::EmbeddingPlace;
#[cfg(feature = "cuda")]
use luthier_core::ops::cuda::NumberType;
use luthier_core::{EngineError, Result};
use napi::Env;
use napi::bindgen_prelude::Object;
use napi_derive::napi;

use crate::dto::{NativeAdapterInfo, NativeEngineInfo, NativeMergeBase, NativeMergedModel, NativeModelMetadata};
use crate::estimate::{NativeEstimatedModel, NativeTrainingEstimate};
use crate::examples::{ExampleSource, NativeExamples};
use crate::model::NativeModel;
use crate::promise::{background, to_napi};
use crate::quantization::NativeQuantization;
use crate::training::{NativeLoraConfig, NativeTrainingConfig};

/// What this build can compute on, besides the processor.
#[napi(object, object_from_js = false)]
pub struct NativeCapabilities {
    pub cuda: bool,
}

#[napi]
pub fn capabilities() -> NativeCapabilities {
    NativeCapabilities { cuda: cfg!(feature = "cuda") }
}

/// Opens devices as [`DeviceList`] reads them; of GPUs, activations are kept as `compute_type`, which is `bf16` or `f16`.
///
/// Errors: `INVALID_ARGUMENT` for another type, for no list, and for devices that this build cannot compute on.
fn open(device: &str, threads: usize, compute_type: &str) -> Result<Device> {
    if !["bf16", "f16"].contains(&compute_type) {
        return Err(EngineError::invalid(format!("compute type {compute_type}: expected bf16 or f16")));
    }
    match device.parse()? {
        DeviceList::Processor { ranks } => Device::open_ranks(threads, ranks),
        #[cfg(feature = "cuda")]
        DeviceList::Gpus(ordinals) => {
            let compute = if compute_type == "f16" { NumberType::F16 } else { NumberType::BF16 };
            Device::open_gpus(&ordinals, threads, compute)
        }
        #[cfg(not(feature = "cuda"))]
        DeviceList::Gpus(_) => Err(EngineError::invalid(format!(
            "device {device}: this engine was built without CUDA; use the device cpu, or the engine that `npm run build:cuda` makes"
        ))),
    }
}

fn place(embedding_in_host_memory: bool) -> EmbeddingPlace {
    if embedding_in_host_memory { EmbeddingPlace::Host } else { EmbeddingPlace::Device }
}

/// A device and its thread.
#[napi]
pub struct NativeEngine(Arc<Device>);

#[napi]
impl NativeEngine {
    /// `cpu`, `cpu×n`, `cuda:n` or `cuda:n,m`, with so many threads for matrix products; null: as many as the process may use. `compute_type`: `bf16` or `f16`, of
    /// activations on a GPU.
    #[napi(constructor)]
    pub fn new(threads: Option<u32>, device: String, compute_type: String) -> napi::Result<Self> {
        let available = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = threads.map_or_else(available, |threads| threads as usize);
        Ok(Self(Arc::new(open(&device, threads, &compute_type).map_err(|error| to_napi(&error))?)))
    }

    #[napi]
    pub fn info(&self) -> NativeEngineInfo {
        self.0.info().into()
    }

    #[napi]
    pub fn read_metadata<'env>(&self, env: &'env Env, path: String) -> napi::Result<Object<'env>> {
        background(env, move || Ok(NativeModelMetadata::from(load::open(&PathBuf::from(path))?.metadata()?)))
    }

    /// `embedding_in_host_memory`: a GPU reads the embedding table from locked host memory, where the host locks so much.
    #[napi]
    pub fn load_model<'env>(
        &self,
        env: &'env Env,
        path: String,
        storage: String,
        embedding_in_host_memory: bool,
    ) -> napi::Result<Object<'env>> {
        let device = self.0.clone();
        let embedding = place(embedding_in_host_memory);
        background(env, move || {
            let model = device.load(&PathBuf::from(path), storage.parse()?, embedding)?;
            Ok(NativeModel::new(device, model))
        })
    }

    /// Bytes that the weights take in each form, without loading them.
    #[napi]
    pub fn weight_bytes<'env>(
        &self,
        env: &'env Env,
        path: String,
        storages: Vec<String>,
        embedding_in_host_memory: bool,
    ) -> napi::Result<Object<'env>> {
        let device = self.0.clone();
        background(env, move || {
            let storages = storages.iter().map(|storage| storage.parse()).collect::<Result<Vec<_>>>()?;
            let bytes = device.weight_bytes(Path::new(&path), &storages, place(embedding_in_host_memory))?;
            Ok(bytes.into_iter().map(|bytes| bytes as f64).collect::<Vec<_>>())
        })
    }

    /// Writes nothing until the result is run. `path`: a Hugging Face folder; `folder`: an empty one that exists.
    #[napi]
    pub fn quantize_model(&self, path: String, storage: String, folder: String) -> napi::Result<NativeQuantization> {
        let storage = storage.parse().map_err(|error| to_napi(&error))?;
        Ok(NativeQuantization::new(PathBuf::from(path), storage, PathBuf::from(folder)))
    }

    /// Reads the regular expressions of a new adapter's settings.
    #[napi]
    pub fn check_targets(&self, lora: NativeLoraConfig) -> napi::Result<()> {
        LoraConfig::from(lora).targets.check().map_err(|error| to_napi(&error))
    }

    /// What a run would be and need, without loading its model.
    #[napi]
    pub fn estimate_training<'env>(
        &self,
        env: &'env Env,
        model: NativeEstimatedModel,
        config: NativeTrainingConfig,
        train: NativeExamples,
        evaluation: Option<NativeExamples>,
    ) -> napi::Result<Object<'env>> {
        let device = self.0.clone();
        let (train, evaluation) = (ExampleSource::from(train), evaluation.map(ExampleSource::from));
        background(env, move || {
            let NativeEstimatedModel { path, storage, embedding_in_host_memory, loaded, content_hash } = model;
            let content_hash = (!config.init_adapter_any_base).then_some(content_hash);
            let initial = config.init_adapter_path.clone().map(|folder| (PathBuf::from(folder), content_hash));
            let (storage, config) = (storage.parse()?, config.try_into()?);
            let (path, embedding) = (PathBuf::from(path), place(embedding_in_host_memory));
            let (train, evaluation) = (train.open()?, evaluation.map(ExampleSource::open).transpose()?);
            let query = EstimateQuery { path, storage, embedding, loaded, config, train, evaluation, initial };
            Ok(NativeTrainingEstimate::from(device.estimate(&query)?))
        })
    }

    #[napi]
    pub fn read_adapter<'env>(&self, env: &'env Env, folder: String) -> napi::Result<Object<'env>> {
        background(env, move || Ok(NativeAdapterInfo::from(&read_adapter_info(&PathBuf::from(folder))?)))
    }

    /// Writes base and adapter as one model into an existing empty folder.
    #[napi]
    pub fn merge_adapter<'env>(
        &self,
        env: &'env Env,
        base: NativeMergeBase,
        adapter: String,
        format: String,
        folder: String,
    ) -> napi::Result<Object<'env>> {
        background(env, move || {
            let request = MergeRequest {
                base: Path::new(&base.path),
                base_hash: base.content_hash.as_deref(),
                storage: base.storage.parse()?,
                adapter: Path::new(&adapter),
                format: format.parse()?,
                shard_bytes: luthier_core::checkpoint::SHARD_BYTES,
            };
            Ok(NativeMergedModel::from(merge(&request, Path::new(&folder))?))
        })
    }

    /// Waits, on a thread of its own, for the device's current turn.
    #[napi]
    pub fn close<'env>(&self, env: &'env Env) -> napi::Result<Object<'env>> {
        let device = self.0.clone();
        background(env, move || {
            device.close();
            Ok(())
        })
    }
}
