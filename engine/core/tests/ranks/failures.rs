//! What one rank fails by ends the run on all, with its cause; nobody waits for one that is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use luthier_core::ErrorCode;
use luthier_core::Result;
use luthier_core::load;
use luthier_core::model::{BaseModel, Examples, TensorSource, TokenExamples};
use luthier_core::ops::Ops as _;
use luthier_core::ranks::{DEADLINE, shared_memory};
use luthier_core::train::{Progress, RankedTrainer, TrainConfig, TrainingEvent};
use luthier_core::{HostTensor, ModelConfig, StoredType, TensorBytes, WeightStorage};

use crate::golden::Golden;
use crate::support::{Ops, alone, devices, finish, inputs, start, start_with};

fn settings(golden: &Golden) -> TrainConfig {
    TrainConfig {
        per_device_train_batch_size: 2,
        gradient_accumulation_steps: 2,
        max_steps: Some(4),
        warmup_steps: 0.0,
        ..golden.config()
    }
}

/// Examples that one rank's thread has trouble with, once, when it is armed: not while runs are checked and priced.
struct Troubled {
    examples: TokenExamples,
    trouble: fn(),
    armed: Arc<AtomicBool>,
}

impl Troubled {
    fn new(golden: &Golden, trouble: fn()) -> (Self, Arc<AtomicBool>) {
        let armed = Arc::new(AtomicBool::new(false));
        (Self { examples: golden.train(), trouble, armed: armed.clone() }, armed)
    }
}

impl Examples for Troubled {
    fn len(&self) -> usize {
        self.examples.len()
    }

    fn example(&self, index: usize) -> (&[u32], &[i32]) {
        if thread::current().name() == Some("luthier-cpu:1") && self.armed.swap(false, Ordering::Relaxed) {
            (self.trouble)();
        }
        self.examples.example(index)
    }

    fn example_len(&self, index: usize) -> usize {
        self.examples.example_len(index)
    }

    fn label_count(&self, index: usize) -> usize {
        self.examples.label_count(index)
    }

    fn validate(&self, config: &ModelConfig, what: &str) -> Result<()> {
        self.examples.validate(config, what)
    }

    fn check_layout(&self, what: &str) -> Result<()> {
        self.examples.check_layout(what)
    }
}

/// The error of a run that does not end well.
fn failure(mut trainer: RankedTrainer<Ops>) -> luthier_core::EngineError {
    let error = loop {
        match trainer.advance() {
            Ok(Progress::Event(TrainingEvent::Finished) | Progress::Finished) => panic!("the run ends well"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(trainer.advance().unwrap(), Progress::Finished);
    error
}

#[test]
fn a_panic_in_a_forward_pass_ends_the_run_with_its_cause() {
    let golden = Golden::open("tied");
    for (ranks, bucket_len) in [(2, None), (3, Some(1))] {
        let (troubled, armed) = Troubled::new(&golden, || panic!("a broken page"));
        let given = inputs(&golden, settings(&golden), troubled, None);
        let connect = shared_memory(ranks, bucket_len);
        let mut trainer = start_with(&golden, ranks, &given, &connect, DEADLINE).unwrap();
        while trainer.global_step() == 0 {
            trainer.advance().unwrap();
        }
        armed.store(true, Ordering::Relaxed);
        let error = failure(trainer);
        assert_eq!(error.code, ErrorCode::Internal);
        assert!(error.message.contains("on cpu:1") && error.message.contains("a broken page"), "{error}");
    }
}

#[test]
fn a_rank_that_does_not_come_in_time_is_named() {
    let golden = Golden::open("tied");
    let (troubled, armed) = Troubled::new(&golden, || thread::sleep(Duration::from_secs(8)));
    let given = inputs(&golden, settings(&golden), troubled, None);
    // Long enough for a busy machine to start a run.
    let trainer = start_with(&golden, 2, &given, &shared_memory(2, None), Duration::from_secs(5)).unwrap();
    armed.store(true, Ordering::Relaxed);
    let error = failure(trainer);
    assert_eq!(error.code, ErrorCode::Internal);
    assert!(error.message.contains("rank 1 did not come within 5 s"), "{error}");
}

#[test]
fn a_device_without_room_is_named_before_anything_is_trained() {
    let golden = Golden::open("tied");
    let given = inputs(&golden, settings(&golden), golden.train(), None);
    let (first, others) = devices(&golden, 3);
    let held = others[1].0.ops.memory().allocated_bytes;
    others[1].0.ops.limit_memory(held + 10_000);
    let refused = RankedTrainer::new(first, others, &given, &shared_memory(3, None), DEADLINE);
    let error = refused.err().expect("there is no room");
    assert_eq!(error.code, ErrorCode::OutOfMemory);
    assert!(error.message.starts_with("on cpu:2: the run needs"), "{error}");
}

/// A model whose last norm gives no numbers.
struct Broken(Box<dyn TensorSource>);

impl TensorSource for Broken {
    fn config(&self) -> &ModelConfig {
        self.0.config()
    }

    fn tensor(&self, name: &str) -> Result<HostTensor> {
        if name != "model.norm.weight" {
            return self.0.tensor(name);
        }
        let width = self.config().hidden_size;
        let bytes: Vec<u8> = std::iter::repeat_n(f32::NAN.to_le_bytes(), width).flatten().collect();
        Ok(HostTensor::new(StoredType::F32, vec![width], TensorBytes::Owned(bytes.into())))
    }
}

/// One rank's loss is no number: all skip the step, until no more may be skipped.
#[test]
fn a_loss_that_breaks_on_one_rank_is_skipped_by_all() {
    let golden = Golden::open("tied");
    let config = TrainConfig { max_non_finite_steps: 2, ..settings(&golden) };
    let given = inputs(&golden, config, golden.train(), None);
    let (first, mut others) = devices(&golden, 2);
    let files = load::open(&golden.folder.join("model")).unwrap();
    let rank = &mut others[0].0;
    rank.base = Arc::new(BaseModel::load(&*rank.ops, &Broken(files), WeightStorage::Stored).unwrap());
    let mut trainer = RankedTrainer::new(first, others, &given, &shared_memory(2, None), DEADLINE).unwrap();
    let initial = trainer.adapter().unwrap();
    let mut skipped = 0;
    let error = loop {
        match trainer.advance() {
            Ok(Progress::Event(TrainingEvent::Step(step))) => {
                skipped += 1;
                assert!(step.skipped && step.loss.is_nan() && step.skipped_steps == skipped);
                assert!(trainer.adapters().unwrap().iter().all(|adapter| *adapter == initial));
            }
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!((skipped, error.code), (2, ErrorCode::NonFiniteLoss));
    assert!(error.message.contains("step 3 of 4") && error.message.contains("rank 1: the loss is NaN"), "{error}");
}

/// Dropped between two micro-batches of a step: the devices are free for the next run at once, which is as any other.
#[test]
fn a_run_is_cancelled_within_a_step() {
    let golden = Golden::open("tied");
    let given = inputs(&golden, settings(&golden), golden.train(), None);
    let (first, others) = devices(&golden, 2);
    let again = || {
        let rank = |rank: &luthier_core::train::Rank<Ops>| luthier_core::train::Rank {
            name: rank.name.clone(),
            ops: rank.ops.clone(),
            base: rank.base.clone(),
        };
        let others = others.iter().map(|(other, thread)| (rank(other), thread.clone())).collect();
        RankedTrainer::new(rank(&first), others, &given, &shared_memory(2, None), DEADLINE).unwrap()
    };
    let mut trainer = again();
    let mut pending = 0;
    while pending < 2 {
        pending += usize::from(trainer.advance().unwrap() == Progress::Pending);
    }
    drop(trainer);
    let run = finish(again());
    assert_eq!(run.steps.len(), 4);
    assert_eq!(run.adapter, finish(start(&golden, 2, &given).unwrap()).adapter);
}

#[test]
fn more_ranks_than_examples_are_refused() {
    let golden = Golden::open("tied");
    let few = crate::support::chosen(&golden.train(), 0..2);
    let given = inputs(&golden, settings(&golden), few, None);
    alone(&golden, &given);
    let error = start(&golden, 3, &given).err().expect("a rank has no example");
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    assert!(error.message.contains("3 devices share 2 training examples"), "{error}");
}
