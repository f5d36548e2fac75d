//! The device as others see it.

use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

#[cfg(feature = "cuda")]
use super::backend::Accelerator;
use super::backend::{Backend, Processor};
use super::estimate::EstimateQuery;
use super::generation::{GenerationRun, GenerationTask};
use super::info::DeviceInfo;
use super::list::DeviceList;
use super::model::{LoadedAdapter, LoadedModel};
#[cfg(feature = "cuda")]
use super::others::Others;
use super::scheduler::Scheduler;
use super::scoring::ScoringTask;
use super::task::Task;
use super::training::{TrainingRequest, TrainingRun, TrainingTask};
use crate::error::{EngineError, ErrorCode, Result};
use crate::generate::{SamplingConfig, Scoring, Session, TokenScores};
use crate::load;
use crate::model::WeightForms;
use crate::ops::EmbeddingPlace;
#[cfg(feature = "cuda")]
use crate::ops::cuda::{CudaOps, NumberType, check_nccl, nccl};
use crate::quant::WeightStorage;
#[cfg(feature = "cuda")]
use crate::train::LossScaling;
use crate::train::TrainingEstimate;

/// A device and its thread. Shared freely; everything that is asked of it is answered through callbacks from its thread, or at once.
pub struct Device {
    info: DeviceInfo,
    backend: Arc<dyn Backend>,
    /// Gone once closed.
    inbox: Mutex<Option<Sender<Box<dyn Task>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

fn closed() -> EngineError {
    EngineError::new(ErrorCode::Closed, "the engine is closed; open a new one")
}

impl Device {
    /// The processor, with `threads` threads for matrix products (at least one).
    ///
    /// Errors: `INTERNAL` where the system refuses the thread.
    pub fn open(threads: usize) -> Result<Self> {
        Self::open_ranks(threads, 1)
    }

    /// The processor as several ranks, each with an equal part of the threads: training as on several devices.
    ///
    /// Errors: as [`Self::open`].
    pub fn open_ranks(threads: usize, ranks: usize) -> Result<Self> {
        let devices = DeviceList::Processor { ranks: ranks.max(1) }.names();
        let processor = Processor::new(threads, &devices)?;
        let threads = processor.ops.threads() * devices.len();
        let info = DeviceInfo { devices, ..DeviceInfo::of_processor(threads) };
        Self::start(Arc::new(processor), info)
    }

    /// GPUs by their numbers, each once and at least one, with activations in `compute`; weights, adapters and everything computed from them are
    /// there. Models are loaded on all, which train together; the first generates. `threads` is only told in [`Self::info`].
    ///
    /// Errors: `INTERNAL` with the driver's words where there is no such GPU, or where the system refuses the thread; `INVALID_ARGUMENT` where
    /// several GPUs cannot train together.
    #[cfg(feature = "cuda")]
    pub fn open_gpus(ordinals: &[usize], threads: usize, compute: NumberType) -> Result<Self> {
        if ordinals.len() > 1 {
            check_nccl()?;
        }
        let mut gpus = ordinals.iter().map(|ordinal| CudaOps::open(*ordinal, compute)).collect::<Result<Vec<_>>>()?;
        if gpus.is_empty() {
            return Err(EngineError::invalid("no GPU is named; expected at least one"));
        }
        let gpu = gpus.remove(0);
        let (device_name, total_memory_bytes) = gpu.describe()?;
        let devices = DeviceList::Gpus(ordinals.to_vec()).names();
        // After the backward pass: sums beside it take multiprocessors from its products, which cost more than they save (decision 0015).
        let others = Others::new(&devices, gpus, || nccl(None))?;
        let device = devices[0].clone();
        let compute_dtype = match compute {
            NumberType::F32 => "float32",
            NumberType::F16 => "float16",
            NumberType::BF16 => "bfloat16",
        };
        let compute_dtype = compute_dtype.to_owned();
        let attention = gpu.attention_library();
        let processor = DeviceInfo::of_processor(threads);
        let info =
            DeviceInfo { device, devices, device_name, compute_dtype, attention, total_memory_bytes, ..processor };
        let loss_scaling = (compute == NumberType::F16).then(LossScaling::default);
        Self::start(Arc::new(Accelerator { ops: Arc::new(gpu), loss_scaling, others }), info)
    }

    pub(super) fn start(backend: Arc<dyn Backend>, info: DeviceInfo) -> Result<Self> {
        let (inbox, tasks) = channel();
        let scheduler = Scheduler::new(tasks);
        let thread = std::thread::Builder::new()
            .name("luthier-device".to_owned())
            .spawn(move || scheduler.run())
            .map_err(|error| EngineError::internal(format!("cannot start the device's thread: {error}")))?;
        Ok(Self { info, backend, inbox: Mutex::new(Some(inbox)), thread: Mutex::new(Some(thread)) })
    }

    /// What it is.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Loads a model on the calling thread; see [`LoadedModel`].
    pub fn load(&self, path: &Path, storage: WeightStorage, embedding: EmbeddingPlace) -> Result<LoadedModel> {
        LoadedModel::load(&*self.backend, path, storage, embedding)
    }

    /// What a run would be and need, without loading a model. Reads files, on the calling thread.
    ///
    /// Errors: those of [`crate::load::open`], of an adapter's files and of [`crate::train::estimate`].
    pub fn estimate(&self, query: &EstimateQuery) -> Result<TrainingEstimate> {
        query.estimate(&*self.backend)
    }

    /// Bytes of this device's memory that a model's weights take in each form: [`LoadedModel::weight_bytes`], rounded up as the device
    /// allocates. Reads headers only, on the calling thread.
    ///
    /// Errors: those of [`crate::load::open`].
    pub fn weight_bytes(&self, path: &Path, storages: &[WeightStorage], embedding: EmbeddingPlace) -> Result<Vec<u64>> {
        let files = load::open(path)?;
        let stored = WeightForms::read(&*files, WeightStorage::Stored, embedding)?;
        Ok(storages.iter().map(|storage| self.backend.price(&stored.converted(*storage))).collect())
    }

    /// Starts a run; `started` is told once everything is checked and allocated, or why not.
    pub fn train(&self, request: TrainingRequest, started: impl FnOnce(Result<TrainingRun>) + Send + 'static) {
        self.submit(Box::new(TrainingTask::new(request, Box::new(started))));
    }

    /// Starts a generation.
    ///
    /// Errors: `INVALID_ARGUMENT`, `SEQUENCE_TOO_LONG`; a closed device shows as the run's end.
    pub fn generate(
        &self,
        model: &LoadedModel,
        adapter: Option<&LoadedAdapter>,
        prompt: Vec<u32>,
        sampling: SamplingConfig,
    ) -> Result<GenerationRun> {
        let sequence = model.weights.sequence(adapter.map(|found| &found.matrices))?;
        let (task, run) = GenerationTask::new(Session::new(sequence, prompt, sampling)?);
        self.submit(Box::new(task));
        Ok(run)
    }

    /// Scores ids; `answer` is told the result.
    pub fn score(
        &self,
        model: &LoadedModel,
        adapter: Option<&LoadedAdapter>,
        ids: Vec<u32>,
        top_logits: usize,
        answer: impl FnOnce(Result<TokenScores>) + Send + 'static,
    ) {
        let sequence = model.weights.sequence(adapter.map(|found| &found.matrices));
        match sequence.and_then(|sequence| Scoring::new(sequence, ids, top_logits)) {
            Ok(scoring) => self.submit(Box::new(ScoringTask::new(scoring, Box::new(answer)))),
            Err(error) => answer(Err(error)),
        }
    }

    /// Ends the thread after its current turn; what is unfinished fails with `CLOSED`. Idempotent.
    pub fn close(&self) {
        drop(self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The device's own thread may be the one that drops the last reference to it; it ends by itself.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            // Its panics were told to the runs that caused them.
            let _ = thread.join();
        }
    }

    pub(super) fn submit(&self, task: Box<dyn Task>) {
        let inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = match &*inbox {
            Some(inbox) => inbox.send(task).err().map(|refused| refused.0),
            None => Some(task),
        };
        drop(inbox);
        if let Some(mut task) = refused {
            task.fail(closed());
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.close();
    }
}
