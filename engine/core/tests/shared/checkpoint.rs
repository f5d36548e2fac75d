//! Runs that are cut and gone on with through checkpoint files beside runs that are not, on any device.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use luthier_core::Result;
use luthier_core::lora::peft::PeftAdapter;
use luthier_core::model::{BaseModel, Examples, TokenExamples};
use luthier_core::ops::Ops;
use luthier_core::train::checkpoint::{Checkpoint, SavedCheckpoint, Snapshot};
use luthier_core::train::{Progress, TrainConfig, Trainer, TrainingEvent};

/// What is trained.
pub struct Case<O: Ops> {
    pub ops: Arc<O>,
    pub base: Arc<BaseModel<O>>,
    pub config: TrainConfig,
    pub train: TokenExamples,
    pub evaluation: Option<TokenExamples>,
    pub initial: Option<PeftAdapter>,
}

/// The numbers of events, and the adapter, as bits. Nothing of clocks and memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    pub events: Vec<Vec<u64>>,
    pub adapter: Vec<u32>,
}

/// An empty folder, removed when dropped.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("luthier-checkpoint-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// All NaNs are one.
fn bits(number: f64) -> u64 {
    if number.is_nan() { f64::NAN.to_bits() } else { number.to_bits() }
}

pub fn told(event: &TrainingEvent) -> Option<Vec<u64>> {
    match event {
        TrainingEvent::Started(_) => None,
        TrainingEvent::Step(step) => Some(vec![
            1,
            step.global_step,
            step.max_steps,
            bits(step.epoch),
            bits(step.loss),
            bits(step.grad_norm),
            bits(step.learning_rate),
            step.tokens,
            step.label_tokens,
            u64::from(step.skipped),
            step.skipped_steps,
        ]),
        TrainingEvent::Evaluation(result) => Some(vec![
            2,
            result.global_step,
            bits(result.epoch),
            bits(result.loss),
            bits(result.trainer_loss),
            result.label_tokens,
            result.examples,
            u64::from(result.best),
            u64::from(result.stops),
        ]),
        TrainingEvent::Finished => Some(vec![3]),
    }
}

pub fn adapter_bits(adapter: &PeftAdapter) -> Vec<u32> {
    adapter.modules.values().flat_map(|module| module.a.iter().chain(&module.b)).map(|value| value.to_bits()).collect()
}

impl<O: Ops> Case<O> {
    pub fn trainer(&self) -> Trainer<O> {
        let evaluation = self.evaluation.clone().map(|found| Box::new(found) as Box<dyn Examples>);
        let (train, initial) = (self.train.clone(), self.initial.clone());
        Trainer::new(self.ops.clone(), self.base.clone(), self.config.clone(), train, evaluation, initial).unwrap()
    }

    /// A run that goes on from a folder.
    pub fn resumed(&self, folder: &Path) -> Result<Trainer<O>> {
        let mut trainer = self.trainer();
        trainer.resume(&Checkpoint::read(folder)?)?;
        Ok(trainer)
    }

    /// Through the disk and back.
    pub fn moved(&self, snapshot: &Snapshot) -> Trainer<O> {
        let folder = Folder::new();
        snapshot.write(&folder.0).unwrap();
        self.resumed(&folder.0).unwrap()
    }

    /// Cuts the run before and after everything that it computes, and goes on from there to the end: each time as the run that is not cut.
    /// Returns that run, and at how many places it was cut.
    pub fn cut_everywhere(&self) -> (Outcome, usize) {
        let whole = finish(self.trainer());
        let (mut trainer, mut events, mut cuts, mut spare) = (self.trainer(), Vec::new(), 0, None);
        loop {
            let snapshot = trainer.checkpoint(spare.take()).unwrap();
            let rest = finish(self.moved(&snapshot));
            let joined = Outcome { events: [&events[..], &rest.events].concat(), adapter: rest.adapter };
            assert_eq!(joined.events, whole.events, "cut at {cuts}, after {} steps", snapshot.global_step());
            assert!(joined.adapter == whole.adapter, "cut at {cuts}: the adapters differ");
            (cuts, spare) = (cuts + 1, Some(snapshot));
            if let Progress::Event(event) = trainer.advance().unwrap() {
                events.extend(told(&event));
                if event == TrainingEvent::Finished {
                    break;
                }
            }
        }
        assert_eq!(events, whole.events, "taking checkpoints changes nothing");
        assert!(adapter_bits(&trainer.adapter().unwrap()) == whole.adapter);
        (whole, cuts)
    }

    /// A run that is cut after so many pieces of work, again and again.
    pub fn cut_often(&self, pieces: &[usize]) -> Outcome {
        let (mut trainer, mut events) = (self.trainer(), Vec::new());
        for count in pieces {
            for _ in 0..*count {
                if let Progress::Event(event) = trainer.advance().unwrap() {
                    events.extend(told(&event));
                }
            }
            let snapshot = trainer.checkpoint(None).unwrap();
            drop(trainer);
            trainer = self.moved(&snapshot);
        }
        let rest = finish(trainer);
        Outcome { events: [events, rest.events].concat(), adapter: rest.adapter }
    }

    /// A checkpoint after so many pieces of work, on the disk.
    pub fn saved_after(&self, pieces: usize, folder: &Path) -> SavedCheckpoint {
        let mut trainer = self.trainer();
        for _ in 0..pieces {
            trainer.advance().unwrap();
        }
        trainer.checkpoint(None).unwrap().write(folder).unwrap()
    }
}

/// To the end.
pub fn finish<O: Ops>(mut trainer: Trainer<O>) -> Outcome {
    let mut events = Vec::new();
    loop {
        match trainer.advance().unwrap() {
            Progress::Event(event) => {
                events.extend(told(&event));
                if event == TrainingEvent::Finished {
                    return Outcome { events, adapter: adapter_bits(&trainer.adapter().unwrap()) };
                }
            }
            Progress::Pending | Progress::CheckpointDue => {}
            Progress::Finished => panic!("the run ends with an event"),
        }
    }
}
