//! Training as a task.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::backend::Training;
use super::channel::{Events, Teller, channel};
use super::model::LoadedModel;
use super::task::{Task, Turn};
use crate::error::{EngineError, Result};
use crate::lora::peft::PeftAdapter;
use crate::model::Examples;
use crate::train::{Progress, TrainConfig, TrainingEvent};

/// What to train.
pub struct TrainingRequest {
    pub model: Arc<LoadedModel>,
    pub config: TrainConfig,
    pub train: Box<dyn Examples>,
    pub evaluation: Option<Box<dyn Examples>>,
    /// An adapter to start from.
    pub initial: Option<PeftAdapter>,
}

/// What a run tells. The last one is `Training(Finished)` or `Cancelled`, or the run's end is an error.
#[derive(Clone, Debug, PartialEq)]
pub enum RunEvent {
    Training(TrainingEvent),
    Cancelled,
}

/// A request without its model.
pub(super) struct TrainingInputs {
    pub config: TrainConfig,
    pub train: Box<dyn Examples>,
    pub evaluation: Option<Box<dyn Examples>>,
    pub initial: Option<PeftAdapter>,
}

type Slot = Arc<Mutex<Option<PeftAdapter>>>;

fn lock(slot: &Slot) -> MutexGuard<'_, Option<PeftAdapter>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A run under way. Dropping it cancels.
pub struct TrainingRun {
    pub events: Events<RunEvent>,
    cancelled: Arc<AtomicBool>,
    adapter: Slot,
}

impl TrainingRun {
    /// Takes effect within one micro-batch. Idempotent.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// The adapter as the last whole step left it, once the run has ended; `INVALID_ARGUMENT` before.
    pub fn adapter(&self) -> Result<PeftAdapter> {
        lock(&self.adapter).clone().ok_or_else(|| {
            EngineError::invalid("the run is still going; its adapter can be had once it has finished or was cancelled")
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
    cancelled: Arc<AtomicBool>,
    adapter: Slot,
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
        if self.cancelled.load(Ordering::Relaxed) {
            self.keep_adapter();
            self.teller.finish(RunEvent::Cancelled);
            return Turn::Done;
        }
        match self.trainer.advance() {
            Ok(Progress::Pending) => Turn::Again,
            Ok(Progress::Event(TrainingEvent::Finished)) => {
                self.keep_adapter();
                self.teller.finish(RunEvent::Training(TrainingEvent::Finished));
                Turn::Done
            }
            Ok(Progress::Event(event)) => {
                self.teller.tell(RunEvent::Training(event));
                Turn::Again
            }
            Ok(Progress::Finished) => Turn::Done,
            Err(error) => {
                self.keep_adapter();
                self.teller.end(Err(error));
                Turn::Done
            }
        }
    }

    /// Before the end is told, so that whoever reads the end finds it.
    fn keep_adapter(&self) {
        *lock(&self.adapter) = self.trainer.adapter().ok();
    }
}

/// Both sides of a run.
fn start(request: TrainingRequest) -> Result<(Running, TrainingRun)> {
    let TrainingRequest { model, config, train, evaluation, initial } = request;
    let trainer = model.weights.train(TrainingInputs { config, train, evaluation, initial })?;
    let (teller, events) = channel();
    let (cancelled, adapter) = (Arc::new(AtomicBool::new(false)), Slot::default());
    let run = TrainingRun { events, cancelled: cancelled.clone(), adapter: adapter.clone() };
    Ok((Running { trainer, cancelled, adapter, teller }, run))
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
