//! The device as others see it.

use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use super::backend::Backend;
use super::estimate::EstimateQuery;
use super::generation::{GenerationRun, GenerationTask};
use super::info::DeviceInfo;
use super::model::{LoadedAdapter, LoadedModel};
use super::scheduler::Scheduler;
use super::scoring::ScoringTask;
use super::task::{Machine, Task};
use super::training::{TrainingRequest, TrainingRun, TrainingTask};
use crate::error::{EngineError, ErrorCode, Result};
use crate::generate::{SamplingConfig, Scoring, Session, TokenScores};
use crate::ops::EmbeddingPlace;
use crate::ops::cpu::decode::CpuDecoder;
#[cfg(feature = "cuda")]
use crate::ops::cuda::NumberType;
use crate::quant::WeightStorage;
use crate::train::TrainingEstimate;

/// A device and its thread. Shared freely; everything that is asked of it is answered through callbacks from its thread, or at once.
pub struct Device {
    info: DeviceInfo,
    backend: Backend,
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
        let (backend, info) = Backend::processor(threads);
        Self::start(backend, info, threads)
    }

    /// GPU `ordinal`, which trains, with activations in `compute`; the processor, with `threads` threads, generates and scores.
    ///
    /// Errors: `INTERNAL` with the driver's words where there is no such GPU, or where the system refuses the thread.
    #[cfg(feature = "cuda")]
    pub fn open_gpu(ordinal: usize, threads: usize, compute: NumberType) -> Result<Self> {
        let (backend, info) = Backend::gpu(ordinal, threads, compute)?;
        Self::start(backend, info, threads)
    }

    fn start(backend: Backend, info: DeviceInfo, threads: usize) -> Result<Self> {
        let machine = Machine { backend: backend.clone(), decoder: CpuDecoder::new(threads) };
        let (inbox, tasks) = channel();
        let scheduler = Scheduler::new(machine, tasks);
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
        LoadedModel::load(&self.backend, path, storage, embedding)
    }

    /// What a run would be and need, without loading a model. Reads files, on the calling thread.
    ///
    /// Errors: those of [`crate::load::open`], of an adapter's files and of [`crate::train::estimate`].
    pub fn estimate(&self, query: &EstimateQuery) -> Result<TrainingEstimate> {
        query.estimate(&self.backend)
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
        let session = Session::new(model.decode.clone(), adapter.map(|found| found.decode.clone()), prompt, sampling)?;
        let (task, run) = GenerationTask::new(session);
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
        let adapter = adapter.map(|found| found.decode.clone());
        match Scoring::new(model.decode.clone(), adapter, ids, top_logits) {
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
