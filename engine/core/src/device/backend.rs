//! What training computes on: the processor, or one GPU beside it.

use std::sync::Arc;

use super::info::DeviceInfo;
use super::training::TrainingRequest;
use crate::error::Result;
use crate::lora::peft::PeftAdapter;
#[cfg(feature = "cuda")]
use crate::model::{BaseModel, TensorSource};
#[cfg(feature = "cuda")]
use crate::ops::EmbeddingPlace;
use crate::ops::Ops;
use crate::ops::cpu::CpuOps;
#[cfg(feature = "cuda")]
use crate::ops::cuda::{CudaOps, NumberType};
#[cfg(feature = "cuda")]
use crate::quant::WeightStorage;
use crate::train::{EstimateRequest, Progress, Trainer, TrainingEstimate, estimate};
#[cfg(feature = "cuda")]
use crate::train::{LossScaling, TrainConfig};

/// Cheap to share. The processor is always there: it generates and scores.
#[derive(Clone)]
pub(super) struct Backend {
    pub processor: Arc<CpuOps<f32>>,
    #[cfg(feature = "cuda")]
    gpu: Option<Arc<CudaOps>>,
}

/// A run on any device.
pub(super) trait Training: Send {
    /// As [`Trainer::advance`].
    fn advance(&mut self) -> Result<Progress>;
    /// As [`Trainer::adapter`].
    fn adapter(&self) -> Result<PeftAdapter>;
}

impl<O: Ops> Training for Trainer<O> {
    fn advance(&mut self) -> Result<Progress> {
        self.advance()
    }

    fn adapter(&self) -> Result<PeftAdapter> {
        self.adapter()
    }
}

impl Backend {
    /// The processor alone, with `threads` threads.
    pub fn processor(threads: usize) -> (Self, DeviceInfo) {
        let processor = Arc::new(CpuOps::new(threads));
        let info = DeviceInfo::of_processor(processor.threads(), processor.instruction_set());
        let backend = Self {
            processor,
            #[cfg(feature = "cuda")]
            gpu: None,
        };
        (backend, info)
    }

    /// GPU `ordinal` for training, with activations in `compute`, and the processor for the rest.
    ///
    /// Errors: those of [`CudaOps::open`].
    #[cfg(feature = "cuda")]
    pub fn gpu(ordinal: usize, threads: usize, compute: NumberType) -> Result<(Self, DeviceInfo)> {
        let (mut backend, info) = Self::processor(threads);
        let gpu = CudaOps::open(ordinal, compute)?;
        let (device_name, total_memory_bytes) = gpu.describe()?;
        backend.gpu = Some(Arc::new(gpu));
        let device = format!("cuda:{ordinal}");
        let compute_dtype = match compute {
            NumberType::F32 => "float32",
            NumberType::F16 => "float16",
            NumberType::BF16 => "bfloat16",
        };
        let compute_dtype = compute_dtype.to_owned();
        Ok((backend, DeviceInfo { device, device_name, compute_dtype, total_memory_bytes, ..info }))
    }

    /// A model's weights on the GPU, where there is one.
    #[cfg(feature = "cuda")]
    pub fn load_on_gpu(
        &self,
        files: &dyn TensorSource,
        storage: WeightStorage,
        embedding: EmbeddingPlace,
    ) -> Result<Option<Arc<BaseModel<CudaOps>>>> {
        let load = |gpu: &Arc<CudaOps>| BaseModel::load_placed(&**gpu, files, storage, embedding).map(Arc::new);
        self.gpu.as_ref().map(load).transpose()
    }

    /// What a run would need where it would be computed.
    ///
    /// Errors: those of [`estimate`].
    pub fn estimate(&self, request: &EstimateRequest<'_>) -> Result<TrainingEstimate> {
        #[cfg(feature = "cuda")]
        if let Some(gpu) = &self.gpu {
            return estimate(&**gpu, request);
        }
        estimate(&*self.processor, request)
    }

    /// Starts a run where the model's weights are.
    ///
    /// Errors: those of [`Trainer::new`].
    pub fn train(&self, request: TrainingRequest) -> Result<Box<dyn Training>> {
        let TrainingRequest { model, config, train, evaluation, initial } = request;
        #[cfg(feature = "cuda")]
        if let (Some(gpu), Some(base)) = (&self.gpu, &model.gpu) {
            let loss_scaling = (gpu.compute() == NumberType::F16).then(LossScaling::default);
            let config = TrainConfig { loss_scaling, ..config };
            return Ok(Box::new(Trainer::new(gpu.clone(), base.clone(), config, train, evaluation, initial)?));
        }
        let (ops, base) = (self.processor.clone(), model.base.clone());
        Ok(Box::new(Trainer::new(ops, base, config, train, evaluation, initial)?))
    }
}
