//! Training as a task.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::backend::Training;
use super::channel::{Events, Teller, channel};
use super::model::LoadedModel;
use super::task::{Task, Turn};
use crate::error::{EngineError, Result};
use crate::lora::peft::PeftAdapter;
use crate::model::Examples;
use crate::train::checkpoint::{Checkpoint, ModelIdentity, ResumedFrom, SavedCheckpoint, Snapshot};
use crate::train::{Progress, TrainConfig, TrainingEvent};

/// What to train.
pub struct TrainingRequest {
    pub model: Arc<LoadedModel>,
    pub config: TrainConfig,
    pub train: Box<dyn Examples>,
    pub evaluation: Option<Box<dyn Examples>>,
    /// An adapter to start from.
    pub initial: Option<PeftAdapter>,
    /// A checkpoint of such a run to go on from.
    pub resume_from: Option<Checkpoint>,
}

/// What a run tells. The last one is `Training(Finished)`, `Cancelled` or `Paused`, or the run's end is an error.
#[derive(Clone, Debug, PartialEq)]
pub enum RunEvent {
    Training(TrainingEvent),
    /// A checkpoint was taken after so many steps: see [`TrainingRun::write_checkpoint`].
    Checkpoint(u64),
    Cancelled,
    /// As `Checkpoint`, and the run ended there.
    Paused(u64),
}

/// A request without its model.
pub(super) struct TrainingInputs {
    pub identity: ModelIdentity,
    pub config: TrainConfig,
    pub train: Box<dyn Examples>,
    pub evaluation: Option<Box<dyn Examples>>,
    pub initial: Option<PeftAdapter>,
    pub resume_from: Option<Checkpoint>,
}

/// What a run leaves for whoever asks.
struct Slot<T>(Arc<Mutex<Option<T>>>);

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Slot<T> {
    fn lock(&self) -> MutexGuard<'_, Option<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is asked of a run from other threads; looked at before each turn.
#[derive(Default)]
struct Requests {
    cancel: AtomicBool,
    pause: AtomicBool,
    checkpoint: AtomicBool,
    stop: AtomicBool,
}

/// A run under way. Dropping it cancels.
pub struct TrainingRun {
    pub events: Events<RunEvent>,
    /// What it went on from.
    pub resumed: Option<ResumedFrom>,
    requests: Arc<Requests>,
    adapter: Slot<PeftAdapter>,
    snapshot: Slot<Arc<Snapshot>>,
}

impl TrainingRun {
    /// Takes effect within one micro-batch. Idempotent.
    pub fn cancel(&self) {
        self.requests.cancel.store(true, Ordering::Relaxed);
    }

    /// As [`Self::cancel`], but with a checkpoint: of the very micro-batch; on several devices, of the end of the step under way. Idempotent.
    pub fn pause(&self) {
        self.requests.pause.store(true, Ordering::Relaxed);
    }

    /// A checkpoint after the step under way and its evaluation, told by [`RunEvent::Checkpoint`]; none where that step is the last one.
    pub fn request_checkpoint(&self) {
        self.requests.checkpoint.store(true, Ordering::Relaxed);
    }

    /// As [`Trainer::stop_after_step`](crate::train::Trainer::stop_after_step). Idempotent.
    pub fn stop_after_step(&self) {
        self.requests.stop.store(true, Ordering::Relaxed);
    }

    /// Writes the latest checkpoint into an existing folder, on the calling thread, while the run goes on; see [`Snapshot::write`].
    ///
    /// Errors: also `INVALID_ARGUMENT` where none was taken.
    pub fn write_checkpoint(&self, folder: &Path) -> Result<SavedCheckpoint> {
        let snapshot = self.snapshot.lock().clone().ok_or_else(|| {
            EngineError::invalid("no checkpoint was taken yet; ask for one, or pause, and wait for its event")
        })?;
        snapshot.write(folder)
    }

    /// The adapter as the last whole step left it, once the run has ended; `INVALID_ARGUMENT` before.
    pub fn adapter(&self) -> Result<PeftAdapter> {
        self.adapter.lock().clone().ok_or_else(|| {
            let message =
                "the run is still going; its adapter can be had once it has finished, was paused or cancelled";
            EngineError::invalid(message)
        })
    }
}

impl Drop for TrainingRun {
    fn drop(&mut self) {
        self.cancel();
    }
}

type Started = Box<dyn FnOnce(Result<TrainingRun>) + Send>;

/// Memory is allocated in the first turn, on the device thread.
enum State {
    Requested(Box<TrainingRequest>),
    Running(Box<Running>),
    Over,
}

struct Running {
    trainer: Box<dyn Training>,
    requests: Arc<Requests>,
    adapter: Slot<PeftAdapter>,
    snapshot: Slot<Arc<Snapshot>>,
    teller: Teller<RunEvent>,
}

pub(super) struct TrainingTask {
    state: State,
    /// Stays here until it is told, so that it is told also where starting panics.
    started: Option<Started>,
}

impl TrainingTask {
    pub fn new(request: TrainingRequest, started: Started) -> Self {
        Self { state: State::Requested(Box::new(request)), started: Some(started) }
    }

    fn tell_started(&mut self, result: Result<TrainingRun>) {
        if let Some(started) = self.started.take() {
            started(result);
        }
    }
}

impl Running {
    fn advance(&mut self) -> Turn {
        if self.requests.cancel.load(Ordering::Relaxed) {
            return self.finish(RunEvent::Cancelled);
        }
        if self.requests.pause.load(Ordering::Relaxed) && self.trainer.can_checkpoint() {
            return match self.capture() {
                Ok(global_step) => self.finish(RunEvent::Paused(global_step)),
                Err(error) => self.end(error),
            };
        }
        if self.requests.checkpoint.swap(false, Ordering::Relaxed) {
            self.trainer.request_checkpoint();
        }
        if self.requests.stop.swap(false, Ordering::Relaxed) {
            self.trainer.stop_after_step();
        }
        match self.trainer.advance() {
            Ok(Progress::Pending) => Turn::Again,
            Ok(Progress::CheckpointDue) => match self.capture() {
                Ok(global_step) => {
                    self.teller.tell(RunEvent::Checkpoint(global_step));
                    Turn::Again
                }
                Err(error) => self.end(error),
            },
            Ok(Progress::Event(TrainingEvent::Finished)) => self.finish(RunEvent::Training(TrainingEvent::Finished)),
            Ok(Progress::Event(event)) => {
                self.teller.tell(RunEvent::Training(event));
                Turn::Again
            }
            Ok(Progress::Finished) => Turn::Done,
            Err(error) => self.end(error),
        }
    }

    /// Takes a checkpoint, in the memory of the one before where nobody writes that any more; returns the steps done.
    fn capture(&mut self) -> Result<u64> {
        let mut slot = self.snapshot.lock();
        let spare = slot.take().and_then(Arc::into_inner);
        let snapshot = self.trainer.checkpoint(spare)?;
        let global_step = snapshot.global_step();
        *slot = Some(Arc::new(snapshot));
        Ok(global_step)
    }

    fn finish(&self, event: RunEvent) -> Turn {
        self.keep_adapter();
        self.teller.finish(event);
        Turn::Done
    }

    fn end(&self, error: EngineError) -> Turn {
        self.keep_adapter();
        self.teller.end(Err(error));
        Turn::Done
    }

    /// Before the end is told, so that whoever reads the end finds it.
    fn keep_adapter(&self) {
        *self.adapter.lock() = self.trainer.adapter().ok();
    }
}

/// Both sides of a run.
fn start(request: TrainingRequest) -> Result<(Running, TrainingRun)> {
    let TrainingRequest { model, config, train, evaluation, initial, resume_from } = request;
    let identity =
        ModelIdentity { content_hash: model.metadata.content_hash.clone(), weights: model.storage.name().to_owned() };
    let inputs = TrainingInputs { identity, config, train, evaluation, initial, resume_from };
    let trainer = model.weights.train(inputs)?;
    let (teller, events) = channel();
    let (requests, adapter, snapshot) = (Arc::<Requests>::default(), Slot::default(), Slot::default());
    let run = TrainingRun {
        events,
        resumed: trainer.resumed().cloned(),
        requests: requests.clone(),
        adapter: adapter.clone(),
        snapshot: snapshot.clone(),
    };
    Ok((Running { trainer, requests, adapter, snapshot, teller }, run))
}

impl Task for TrainingTask {
    fn advance(&mut self) -> Turn {
        // Running stays in place: a panic must find the teller.
        if let State::Running(running) = &mut self.state {
            return running.advance();
        }
        let State::Requested(request) = std::mem::replace(&mut self.state, State::Over) else { return Turn::Done };
        match start(*request) {
            Ok((running, run)) => {
                self.state = State::Running(Box::new(running));
                self.tell_started(Ok(run));
                Turn::Again
            }
            Err(error) => {
                self.tell_started(Err(error));
                Turn::Done
            }
        }
    }

    fn fail(&mut self, error: EngineError) {
        self.tell_started(Err(error.clone()));
        if let State::Running(running) = std::mem::replace(&mut self.state, State::Over) {
            running.teller.end(Err(error));
        }
    }

    fn is_training(&self) -> bool {
        true
    }
}
