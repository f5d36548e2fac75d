//! What a device computes with: the processor, or one GPU.

use std::any::Any;
use std::sync::{Arc, Mutex};

use super::others::Others;
use super::training::TrainingInputs;
use crate::config::ModelConfig;
use crate::error::{EngineError, Result};
use crate::generate::{CpuSequence, Sequence};
#[cfg(any(feature = "cuda", test))]
use crate::generate::{OpsModel, OpsSequence};
#[cfg(any(feature = "cuda", test))]
use crate::lora::LoraAdapter;
use crate::lora::peft::PeftAdapter;
use crate::model::{BaseModel, TensorSource, WeightForms};
use crate::ops::cpu::CpuOps;
use crate::ops::cpu::decode::CpuDecoder;
use crate::ops::cpu::decode_model::{DecodeAdapter, DecodeModel};
use crate::ops::{EmbeddingPlace, Ops};
use crate::quant::WeightStorage;
use crate::ranks::shared_memory;
use crate::train::checkpoint::{ResumedFrom, Snapshot};
use crate::train::{EstimateRequest, Progress, Trainer, TrainingEstimate};
#[cfg(any(feature = "cuda", test))]
use crate::train::{LossScaling, TrainConfig};

/// A device that can hold models.
pub(super) trait Backend: Send + Sync {
    /// Takes a model's weights, one tensor at a time.
    ///
    /// Errors: those of [`BaseModel::load_placed`].
    fn load(
        &self,
        files: &dyn TensorSource,
        storage: WeightStorage,
        embedding: EmbeddingPlace,
    ) -> Result<Box<dyn Weights>>;

    /// What a run would need here.
    ///
    /// Errors: those of [`estimate`].
    fn estimate(&self, request: &EstimateRequest<'_>) -> Result<TrainingEstimate>;

    /// Bytes of the device's memory that these weights would take here, as [`Weights::bytes`] counts them.
    fn price(&self, weights: &WeightForms) -> u64;
}

/// A model's weights where its device computes: the one copy that trains, generates and scores.
pub(super) trait Weights: Send + Sync {
    fn config(&self) -> &ModelConfig;

    /// Bytes that hold them, mapped or in memory of their own.
    fn bytes(&self) -> u64;

    /// An adapter's matrices as [`Self::sequence`] of the same device reads them.
    ///
    /// Errors: `ADAPTER_MISMATCH`, `OUT_OF_MEMORY`.
    fn load_adapter(&self, adapter: &PeftAdapter) -> Result<AdapterMatrices>;

    /// An empty sequence, to generate or score; takes no memory yet.
    fn sequence(&self, adapter: Option<&AdapterMatrices>) -> Result<Box<dyn Sequence>>;

    /// Starts a run, or goes on with one.
    ///
    /// Errors: those of [`Trainer::new`] and of [`Trainer::resume`].
    fn train(&self, inputs: TrainingInputs) -> Result<Box<dyn Training>>;
}

/// Known to the kind of device that made them.
pub(super) type AdapterMatrices = Arc<dyn Any + Send + Sync>;

/// A run on any device.
pub(super) trait Training: Send {
    /// As [`Trainer::advance`].
    fn advance(&mut self) -> Result<Progress>;
    /// As [`Trainer::adapter`].
    fn adapter(&self) -> Result<PeftAdapter>;
    /// As [`Trainer::can_checkpoint`].
    fn can_checkpoint(&self) -> bool;
    /// As [`Trainer::checkpoint`].
    fn checkpoint(&mut self, spare: Option<Snapshot>) -> Result<Snapshot>;
    /// As [`Trainer::request_checkpoint`].
    fn request_checkpoint(&mut self);
    /// As [`Trainer::stop_after_step`].
    fn stop_after_step(&mut self);
    /// As [`Trainer::resumed`].
    fn resumed(&self) -> Option<&ResumedFrom>;
}

impl<O: Ops> Training for Trainer<O> {
    fn advance(&mut self) -> Result<Progress> {
        self.advance()
    }

    fn adapter(&self) -> Result<PeftAdapter> {
        self.adapter()
    }

    fn can_checkpoint(&self) -> bool {
        self.can_checkpoint()
    }

    fn checkpoint(&mut self, spare: Option<Snapshot>) -> Result<Snapshot> {
        self.checkpoint(spare)
    }

    fn request_checkpoint(&mut self) {
        self.request_checkpoint();
    }

    fn stop_after_step(&mut self) {
        self.stop_after_step();
    }

    fn resumed(&self) -> Option<&ResumedFrom> {
        self.resumed()
    }
}

fn train<O: Ops>(
    ops: &Arc<O>,
    base: &Arc<BaseModel<O>>,
    (others, bases): (&Others<O>, &[Arc<BaseModel<O>>]),
    inputs: TrainingInputs,
) -> Result<Box<dyn Training>> {
    if !bases.is_empty() {
        return others.train(ops, base, bases, inputs);
    }
    let TrainingInputs { identity, config, train, evaluation, initial, resume_from } = inputs;
    let trainer = Trainer::new(ops.clone(), base.clone(), config, train, evaluation, initial)?;
    let mut trainer = trainer.of_model(identity);
    if let Some(checkpoint) = resume_from {
        trainer.resume(&checkpoint)?;
    }
    Ok(Box::new(trainer))
}

fn of_this_device<T: Any + Send + Sync>(adapter: Option<&AdapterMatrices>) -> Result<Option<Arc<T>>> {
    let found = adapter.map(|matrices| matrices.clone().downcast::<T>());
    found.transpose().map_err(|_| EngineError::internal("an adapter was loaded for another kind of device"))
}

/// The processor: it trains by [`Ops`], and decodes weights in the types they are stored in.
pub(super) struct Processor {
    pub ops: Arc<CpuOps<f32>>,
    decoder: Arc<Mutex<CpuDecoder>>,
    others: Arc<Others<CpuOps<f32>>>,
}

impl Processor {
    /// With `threads` threads. Ranks of these names, one or more, have an equal part of them each, at least one; all have one memory.
    ///
    /// Errors: those of [`Others::new`].
    pub fn new(threads: usize, names: &[String]) -> Result<Self> {
        let (ranks, each) = (names.len(), (threads / names.len().max(1)).max(1));
        let others = (1..ranks).map(|_| CpuOps::new(each)).collect();
        Ok(Self {
            ops: Arc::new(CpuOps::new(each)),
            decoder: Arc::new(Mutex::new(CpuDecoder::new(threads))),
            others: Others::new(names, others, move || shared_memory(ranks, None))?,
        })
    }
}

impl Backend for Processor {
    fn load(
        &self,
        files: &dyn TensorSource,
        storage: WeightStorage,
        embedding: EmbeddingPlace,
    ) -> Result<Box<dyn Weights>> {
        let base = Arc::new(BaseModel::load_placed(&*self.ops, files, storage, embedding)?);
        let decode = Arc::new(DecodeModel::new(&base));
        let (ops, decoder, others) = (self.ops.clone(), self.decoder.clone(), self.others.clone());
        Ok(Box::new(ProcessorWeights { ops, decoder, others, base, decode }))
    }

    fn estimate(&self, request: &EstimateRequest<'_>) -> Result<TrainingEstimate> {
        self.others.estimate(&self.ops, request)
    }

    fn price(&self, weights: &WeightForms) -> u64 {
        weights.bytes(&*self.ops.prices())
    }
}

/// Both read the same tensors.
struct ProcessorWeights {
    ops: Arc<CpuOps<f32>>,
    decoder: Arc<Mutex<CpuDecoder>>,
    others: Arc<Others<CpuOps<f32>>>,
    base: Arc<BaseModel<CpuOps<f32>>>,
    decode: Arc<DecodeModel>,
}

impl Weights for ProcessorWeights {
    fn config(&self) -> &ModelConfig {
        &self.base.config
    }

    fn bytes(&self) -> u64 {
        self.base.weight_bytes(&self.ops)
    }

    fn load_adapter(&self, adapter: &PeftAdapter) -> Result<AdapterMatrices> {
        Ok(Arc::new(DecodeAdapter::new(&self.base.config, adapter)))
    }

    fn sequence(&self, adapter: Option<&AdapterMatrices>) -> Result<Box<dyn Sequence>> {
        let adapter = of_this_device(adapter)?;
        Ok(Box::new(CpuSequence::new(self.decoder.clone(), self.decode.clone(), adapter)))
    }

    fn train(&self, inputs: TrainingInputs) -> Result<Box<dyn Training>> {
        train(&self.ops, &self.base, (&self.others, &self.others.share(&self.base)), inputs)
    }
}

/// A device that does everything by [`Ops`]: a GPU.
#[cfg(any(feature = "cuda", test))]
pub(super) struct Accelerator<O: Ops> {
    pub ops: Arc<O>,
    /// Where activations are f16.
    pub loss_scaling: Option<LossScaling>,
    pub others: Arc<Others<O>>,
}

#[cfg(any(feature = "cuda", test))]
impl<O: Ops> Backend for Accelerator<O> {
    fn load(
        &self,
        files: &dyn TensorSource,
        storage: WeightStorage,
        embedding: EmbeddingPlace,
    ) -> Result<Box<dyn Weights>> {
        let base = Arc::new(BaseModel::load_placed(&*self.ops, files, storage, embedding)?);
        let bases = self.others.load(files, storage, embedding)?;
        let model = Arc::new(OpsModel::new(self.ops.clone(), base)?);
        let (loss_scaling, others) = (self.loss_scaling, self.others.clone());
        Ok(Box::new(AcceleratorWeights { model, loss_scaling, others, bases }))
    }

    fn estimate(&self, request: &EstimateRequest<'_>) -> Result<TrainingEstimate> {
        self.others.estimate(&self.ops, request)
    }

    fn price(&self, weights: &WeightForms) -> u64 {
        weights.bytes(&*self.ops.prices())
    }
}

#[cfg(any(feature = "cuda", test))]
struct AcceleratorWeights<O: Ops> {
    model: Arc<OpsModel<O>>,
    loss_scaling: Option<LossScaling>,
    others: Arc<Others<O>>,
    /// Of the other devices.
    bases: Vec<Arc<BaseModel<O>>>,
}

#[cfg(any(feature = "cuda", test))]
impl<O: Ops> Weights for AcceleratorWeights<O> {
    fn config(&self) -> &ModelConfig {
        &self.model.base().config
    }

    fn bytes(&self) -> u64 {
        self.model.base().weight_bytes(self.model.ops())
    }

    fn load_adapter(&self, adapter: &PeftAdapter) -> Result<AdapterMatrices> {
        Ok(Arc::new(LoraAdapter::from_peft(&**self.model.ops(), self.config(), adapter)?))
    }

    fn sequence(&self, adapter: Option<&AdapterMatrices>) -> Result<Box<dyn Sequence>> {
        Ok(Box::new(OpsSequence::new(self.model.clone(), of_this_device::<LoraAdapter<O>>(adapter)?)))
    }

    fn train(&self, inputs: TrainingInputs) -> Result<Box<dyn Training>> {
        let config = TrainConfig { loss_scaling: self.loss_scaling, ..inputs.config };
        let inputs = TrainingInputs { config, ..inputs };
        train(self.model.ops(), self.model.base(), (&self.others, &self.bases), inputs)
    }
}
