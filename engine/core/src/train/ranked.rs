//! A run on several devices of one process, driven as one.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::checkpoint::{Checkpoint, ModelIdentity, ResumedFrom, Snapshot};
use super::config::TrainConfig;
use super::estimate::TrainingEstimate;
use super::events::Progress;
use super::trainer::Trainer;
use crate::error::{EngineError, ErrorCode, Result};
use crate::lora::peft::PeftAdapter;
use crate::model::{BaseModel, Examples};
use crate::ops::Ops;
use crate::ranks::{Connect, LocalRendezvous, RankThread, Rendezvous};

/// A device that takes part.
pub struct Rank<O: Ops> {
    /// For messages, such as `cuda:1`.
    pub name: String,
    pub ops: Arc<O>,
    /// On this device; devices with one memory may share it.
    pub base: Arc<BaseModel<O>>,
}

/// What is trained; as the arguments of [`Trainer::new`].
#[derive(Clone)]
pub struct RankedInputs {
    pub config: TrainConfig,
    pub train: Arc<dyn Examples>,
    pub evaluation: Option<Arc<dyn Examples>>,
    pub initial: Option<PeftAdapter>,
    /// As [`Trainer::of_model`].
    pub model: Option<ModelIdentity>,
    /// As [`Trainer::resume`], on every device.
    pub resume_from: Option<Arc<Checkpoint>>,
}

/// A [`Trainer`] for each of several devices, all of which take the same steps. The first computes on the caller's thread, the others on theirs;
/// the caller sees one run: [`Self::advance`] is a turn on every device, of which the first tells.
///
/// What one device fails by, an error or a panic, ends the run on all, and is what the caller is told. A run is cancelled by dropping it
/// between two turns: no device waits for another then.
pub struct RankedTrainer<O: Ops> {
    name: String,
    rendezvous: Arc<dyn Rendezvous>,
    followers: Vec<Follower<O>>,
    leader: Trainer<O>,
    over: bool,
}

type Slot<O> = Arc<Mutex<Option<Trainer<O>>>>;

fn lock<T>(slot: &Mutex<T>) -> MutexGuard<'_, T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Of another rank than the first.
struct Follower<O: Ops> {
    name: String,
    thread: Arc<RankThread>,
    rendezvous: Arc<dyn Rendezvous>,
    trainer: Slot<O>,
    answers: (Sender<Result<()>>, Receiver<Result<()>>),
    /// Turns that were not answered yet.
    open: usize,
}

impl<O: Ops> RankedTrainer<O> {
    /// Makes a rank of each device, all at once: the first and `others`, each of which has a thread. `connect` makes their collectives; a rank waits no longer than `deadline` for the others.
    ///
    /// Errors: those of [`Trainer::new`] and [`Trainer::resume`], which name the device; those of `connect`.
    pub fn new(
        first: Rank<O>,
        others: Vec<(Rank<O>, Arc<RankThread>)>,
        inputs: &RankedInputs,
        connect: &Connect<O>,
        deadline: Duration,
    ) -> Result<Self> {
        let mut ends = LocalRendezvous::group(1 + others.len(), deadline);
        let meeting = ends.remove(0);
        let mut followers = Vec::new();
        for ((rank, thread), rendezvous) in others.into_iter().zip(ends) {
            let Rank { name, ops, base } = rank;
            let mut follower =
                Follower { name, thread, rendezvous, trainer: Slot::default(), answers: channel(), open: 0 };
            let (slot, end) = (follower.trainer.clone(), follower.rendezvous.clone());
            let (inputs, connect) = (inputs.clone(), connect.clone());
            let begun = follower.start(move || {
                *lock(&slot) = Some(make(&ops, base, inputs, &connect, end)?);
                Ok(())
            });
            followers.push(follower);
            if let Err(error) = begun {
                // The ranks before wait for this one.
                meeting.abort(error.clone());
                return Err(error);
            }
        }
        let Rank { name, ops, base, .. } = first;
        let own = caught(&name, || make(&ops, base, inputs.clone(), connect, meeting.clone()));
        let mut failed = own.as_ref().err().cloned();
        if let Some(error) = &failed {
            meeting.abort(error.clone());
        }
        for follower in &mut followers {
            let answer = follower.answer_all();
            failed = failed.or(answer.err());
        }
        match (own, failed) {
            (Ok(leader), None) => Ok(Self { name, rendezvous: meeting, followers, leader, over: false }),
            (_, failed) => {
                let unknown = || EngineError::internal("a run that could not be started, for no reason");
                Err(meeting.failure().or(failed).unwrap_or_else(unknown))
            }
        }
    }

    /// As [`Trainer::advance`], on every device.
    pub fn advance(&mut self) -> Result<Progress> {
        if self.over {
            return Ok(Progress::Finished);
        }
        let found = self.turn();
        self.over = found.is_err();
        found
    }

    fn turn(&mut self) -> Result<Progress> {
        for follower in &mut self.followers {
            let slot = follower.trainer.clone();
            let begun = follower.start(move || match &mut *lock(&slot) {
                Some(trainer) => trainer.advance().map(drop),
                None => Err(EngineError::internal("a turn of a rank that was not made")),
            });
            if let Err(error) = begun {
                return Err(self.end(error));
            }
        }
        let progress = match catch_unwind(AssertUnwindSafe(|| self.leader.advance())) {
            Ok(Ok(progress)) => progress,
            Ok(Err(error)) => {
                let error = on_device(&self.name, error);
                return Err(self.end(error));
            }
            Err(panic) => {
                self.end(panicked(&self.name, &*panic));
                // The device's thread says so as of any task.
                resume_unwind(panic);
            }
        };
        // Between the micro-batches of a step nothing is decided: nobody waits there for a slower device.
        let waits = progress != Progress::Pending;
        for index in 0..self.followers.len() {
            let follower = &mut self.followers[index];
            let answer = if waits { follower.answer_all() } else { follower.answers_so_far() };
            if let Err(error) = answer {
                return Err(self.end(error));
            }
        }
        Ok(progress)
    }

    /// Ends the run on every device; gives what it failed by first.
    fn end(&mut self, error: EngineError) -> EngineError {
        self.rendezvous.abort(error);
        for follower in &mut self.followers {
            // What comes of it is known: the others fail by the first error.
            let _ = follower.answer_all();
        }
        let unknown = || EngineError::internal("a run that ended for no reason");
        self.rendezvous.failure().unwrap_or_else(unknown)
    }

    /// As [`Trainer::can_checkpoint`].
    pub fn can_checkpoint(&self) -> bool {
        self.leader.can_checkpoint()
    }

    /// As [`Trainer::checkpoint`], of the first device: its state is that of all.
    pub fn checkpoint(&mut self, spare: Option<Snapshot>) -> Result<Snapshot> {
        self.leader.checkpoint(spare)
    }

    /// As [`Trainer::request_checkpoint`].
    pub fn request_checkpoint(&mut self) {
        self.on_all(Trainer::request_checkpoint);
    }

    /// As [`Trainer::stop_after_step`].
    pub fn stop_after_step(&mut self) {
        self.on_all(Trainer::stop_after_step);
    }

    /// Every device comes to it after the same turns, however far behind the first it is: all take the same steps afterwards, too.
    fn on_all(&mut self, change: fn(&mut Trainer<O>)) {
        change(&mut self.leader);
        for follower in &self.followers {
            let slot = follower.trainer.clone();
            // Where the thread has ended, the next turn says so.
            let _ = follower.thread.run(move || {
                if let Some(trainer) = &mut *lock(&slot) {
                    change(trainer);
                }
            });
        }
    }

    /// As [`Trainer::resumed`].
    pub fn resumed(&self) -> Option<&ResumedFrom> {
        self.leader.resumed()
    }

    /// As [`Trainer::estimate`], of the first device.
    pub fn estimate(&self) -> &TrainingEstimate {
        self.leader.estimate()
    }

    /// As [`Trainer::adapter`]; it is the same on all devices.
    pub fn adapter(&self) -> Result<PeftAdapter> {
        self.leader.adapter()
    }

    /// As [`Trainer::global_step`].
    pub fn global_step(&self) -> u64 {
        self.leader.global_step()
    }

    /// As [`Trainer::max_steps`].
    pub fn max_steps(&self) -> u64 {
        self.leader.max_steps()
    }

    /// The adapters of all ranks, for those who want to see that they are the same. Waits for every device.
    pub fn adapters(&self) -> Result<Vec<PeftAdapter>> {
        let others =
            self.followers.iter().filter_map(|follower| lock(&follower.trainer).as_ref().map(Trainer::adapter));
        [self.leader.adapter()].into_iter().chain(others).collect()
    }
}

impl<O: Ops> Follower<O> {
    /// Begins something on the device's thread. An error or a panic of it ends what the other ranks wait for.
    fn start(&mut self, work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
        let (name, rendezvous, answer) = (self.name.clone(), self.rendezvous.clone(), self.answers.0.clone());
        self.thread.run(move || {
            let found = caught(&name, work);
            if let Err(error) = &found {
                rendezvous.abort(error.clone());
            }
            // The run may be over.
            let _ = answer.send(found);
        })?;
        self.open += 1;
        Ok(())
    }

    /// The first error among the answers of all turns, once they are there.
    fn answer_all(&mut self) -> Result<()> {
        let mut found = Ok(());
        while self.open > 0 {
            // Within a turn a rank waits for others as long as the deadline, and works before and after.
            match self.answers.1.recv_timeout(self.rendezvous.deadline() * 2) {
                Ok(answer) => {
                    self.open -= 1;
                    found = found.and(answer);
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    self.open = 0;
                    let message = format!("{} does not answer; restart the server", self.name);
                    found = found.and(Err(EngineError::internal(message)));
                }
            }
        }
        found
    }

    /// As [`Self::answer_all`], without waiting.
    fn answers_so_far(&mut self) -> Result<()> {
        loop {
            match self.answers.1.try_recv() {
                Ok(answer) => {
                    self.open -= 1;
                    answer?;
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Ok(()),
            }
        }
    }
}

impl<O: Ops> Drop for Follower<O> {
    /// The device's memory is given back on its own thread, before whatever is begun there next.
    fn drop(&mut self) {
        let slot = self.trainer.clone();
        // Where the thread has ended, it goes with the slot.
        let _ = self.thread.run(move || drop(lock(&slot).take()));
    }
}

fn make<O: Ops>(
    ops: &Arc<O>,
    base: Arc<BaseModel<O>>,
    inputs: RankedInputs,
    connect: &Connect<O>,
    rendezvous: Arc<dyn Rendezvous>,
) -> Result<Trainer<O>> {
    let RankedInputs { config, train, evaluation, initial, model, resume_from } = inputs;
    let collective = connect(ops, rendezvous)?;
    let evaluation = evaluation.map(|found| Box::new(found) as Box<dyn Examples>);
    let mut trainer = Trainer::new_rank(ops.clone(), base, config, train, evaluation, initial, Some(collective))?;
    if let Some(model) = model {
        trainer = trainer.of_model(model);
    }
    if let Some(checkpoint) = resume_from {
        trainer.resume(&checkpoint)?;
    }
    Ok(trainer)
}

/// Does something; an error or a panic says on which device.
fn caught<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(found) => found.map_err(|error| on_device(name, error)),
        Err(panic) => Err(panicked(name, &*panic)),
    }
}

/// What is wrong with the settings or the numbers is wrong on every device.
fn on_device(name: &str, error: EngineError) -> EngineError {
    match error.code {
        ErrorCode::OutOfMemory | ErrorCode::Internal => {
            EngineError::new(error.code, format!("on {name}: {}", error.message))
        }
        _ => error,
    }
}

fn panicked(name: &str, panic: &(dyn Any + Send)) -> EngineError {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message");
    EngineError::internal(format!("on {name}: the engine panicked: {text}; please report this"))
}
