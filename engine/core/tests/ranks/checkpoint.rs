//! Checkpoints of several ranks: what goes on from one is the run that was not cut, bit for bit; and what is asked of a run takes effect on all
//! ranks at the same place.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use luthier_core::model::{Examples, TokenExamples};
use luthier_core::ops::cpu::CpuOps;
use luthier_core::ranks::{DEADLINE, shared_memory};
use luthier_core::train::checkpoint::{Checkpoint, Snapshot};
use luthier_core::train::{Progress, RankedInputs, RankedTrainer, TrainConfig, Trainer, TrainingEvent};
use luthier_core::{ErrorCode, ModelConfig, Result};

use crate::golden::Golden;
use crate::shared::{Folder, Outcome, adapter_bits, told};
use crate::support::{Ops, inputs, start, start_with};

/// Over two epochs in random order, of six rounds of two ranks, in groups of four and two.
fn settings(golden: &Golden) -> TrainConfig {
    let mut config = TrainConfig {
        per_device_train_batch_size: 2,
        gradient_accumulation_steps: 4,
        per_device_eval_batch_size: 1,
        max_steps: None,
        num_train_epochs: 2.0,
        eval_steps: Some(1),
        load_best_model_at_end: true,
        warmup_steps: 1.0,
        ..golden.config()
    };
    config.lora.lora_dropout = 0.1;
    config
}

fn given(golden: &Golden) -> RankedInputs {
    inputs(golden, settings(golden), golden.train(), Some(golden.evaluation()))
}

/// Through the disk and back.
fn moved(given: &RankedInputs, snapshot: &Snapshot) -> RankedInputs {
    let folder = Folder::new();
    snapshot.write(&folder.0).unwrap();
    RankedInputs { resume_from: Some(Arc::new(Checkpoint::read(&folder.0).unwrap())), ..given.clone() }
}

/// To the end, where every rank has the same adapter.
fn finish(mut trainer: RankedTrainer<Ops>) -> Outcome {
    let mut events = Vec::new();
    loop {
        let progress = trainer.advance().unwrap();
        assert_ne!(progress, Progress::Finished, "the run ends with an event");
        let Progress::Event(event) = progress else { continue };
        events.extend(told(&event));
        if event == TrainingEvent::Finished {
            break;
        }
    }
    let adapters: Vec<Vec<u32>> = trainer.adapters().unwrap().iter().map(adapter_bits).collect();
    assert!(adapters.iter().all(|other| *other == adapters[0]), "the ranks have parted");
    Outcome { events, adapter: adapters[0].clone() }
}

/// Cuts a run wherever it can be, and goes on each time. Returns at how many places it was cut, and at how many it could not be.
fn cut_everywhere(golden: &Golden, ranks: usize, bucket_len: Option<usize>, given: &RankedInputs) -> (usize, usize) {
    let begin =
        |given: &RankedInputs| start_with(golden, ranks, given, &shared_memory(ranks, bucket_len), DEADLINE).unwrap();
    let whole = finish(begin(given));
    let (mut trainer, mut events, mut cuts, mut within) = (begin(given), Vec::new(), 0, 0);
    loop {
        if trainer.can_checkpoint() {
            let snapshot = trainer.checkpoint(None).unwrap();
            let rest = begin(&moved(given, &snapshot));
            assert_eq!(rest.resumed().unwrap().global_step, snapshot.global_step());
            assert!(rest.resumed().unwrap().differences.is_empty());
            let rest = finish(rest);
            assert_eq!([&events[..], &rest.events].concat(), whole.events, "cut at {cuts}");
            assert!(rest.adapter == whole.adapter, "cut at {cuts}: the adapters differ");
            cuts += 1;
        } else {
            let error = trainer.checkpoint(None).err().expect("a step is under way");
            assert!(error.code == ErrorCode::InvalidArgument && error.message.contains("under way"), "{error}");
            within += 1;
        }
        if let Progress::Event(event) = trainer.advance().unwrap() {
            events.extend(told(&event));
            if event == TrainingEvent::Finished {
                break;
            }
        }
    }
    assert_eq!(events, whole.events, "taking checkpoints changes nothing");
    (cuts, within)
}

#[test]
fn dropout_accumulation_and_evaluations() {
    let golden = Golden::open("tied");
    let given = given(&golden);
    // At the beginning, before each of four steps, before each of four rounds of five evaluations, and at the end; not after three rounds of one
    // step and one of the next.
    assert_eq!(cut_everywhere(&golden, 2, None, &given), (1 + 4 + 5 * 4 + 1, 2 * (3 + 1)));
}

#[test]
fn three_ranks_that_sum_block_by_block() {
    let golden = Golden::open("tied");
    let mut given = given(&golden);
    given.config.gradient_accumulation_steps = 2;
    given.config.eval_steps = Some(2);
    cut_everywhere(&golden, 3, Some(1), &given);
}

#[test]
fn another_number_of_devices_is_refused() {
    let golden = Golden::open("tied");
    let given = given(&golden);
    let mut trainer = start(&golden, 2, &given).unwrap();
    while trainer.global_step() == 0 {
        trainer.advance().unwrap();
    }
    let snapshot = trainer.checkpoint(None).unwrap();
    let refused = start(&golden, 3, &moved(&given, &snapshot)).err().expect("three devices");
    let one = TrainConfig { gradient_accumulation_steps: 8, ..given.config.clone() };
    let ops = Arc::new(CpuOps::<f32>::new(1));
    let initial = given.initial.clone();
    let evaluation = Some(Box::new(golden.evaluation()) as Box<dyn Examples>);
    let mut alone = Trainer::new(ops.clone(), golden.model(&*ops), one, golden.train(), evaluation, initial).unwrap();
    let checkpoint = moved(&given, &snapshot).resume_from.unwrap();
    for (error, found) in [(refused, "found 3;"), (alone.resume(&checkpoint).unwrap_err(), "found 1;")] {
        assert_eq!(error.code, ErrorCode::CheckpointMismatch, "{error}");
        assert!(error.message.starts_with("devices: the checkpoint was taken with 2 training together"), "{error}");
        assert!(error.message.contains(found) && error.message.contains("go on with 2"), "{error}");
    }
}

/// Examples that one rank is slow to read, so that it is turns behind.
struct Slow(TokenExamples);

impl Examples for Slow {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn example(&self, index: usize) -> (&[u32], &[i32]) {
        if thread::current().name() == Some("luthier-cpu:1") {
            thread::sleep(Duration::from_millis(10));
        }
        self.0.example(index)
    }

    fn example_len(&self, index: usize) -> usize {
        self.0.example_len(index)
    }

    fn label_count(&self, index: usize) -> usize {
        self.0.label_count(index)
    }

    fn validate(&self, config: &ModelConfig, what: &str) -> Result<()> {
        self.0.validate(config, what)
    }

    fn check_layout(&self, what: &str) -> Result<()> {
        self.0.check_layout(what)
    }
}

/// In words: `p`: a part of a step or of an evaluation, `s3`: step 3, `e3`: its evaluation, `c3`: a checkpoint is due, `f`: the end.
fn word(trainer: &RankedTrainer<Ops>, progress: &Progress) -> String {
    match progress {
        Progress::Pending => "p".to_owned(),
        Progress::CheckpointDue => format!("c{}", trainer.global_step()),
        Progress::Event(TrainingEvent::Started(_)) => "started".to_owned(),
        Progress::Event(TrainingEvent::Step(step)) => format!("s{}", step.global_step),
        Progress::Event(TrainingEvent::Evaluation(result)) => format!("e{}", result.global_step),
        Progress::Event(TrainingEvent::Finished) | Progress::Finished => "f".to_owned(),
    }
}

/// Asked for right after the first rank's part of a round, while the other is behind.
#[test]
fn what_is_asked_for_takes_effect_on_all_ranks_after_the_same_step() {
    let golden = Golden::open("tied");
    let config = TrainConfig {
        gradient_accumulation_steps: 3,
        eval_steps: Some(4),
        per_device_eval_batch_size: 4,
        load_best_model_at_end: false,
        ..settings(&golden)
    };
    let given = inputs(&golden, config, Slow(golden.train()), Some(golden.evaluation()));
    let mut trainer = start(&golden, 2, &given).unwrap();
    let mut story = Vec::new();
    loop {
        let progress = trainer.advance().unwrap();
        story.push(word(&trainer, &progress));
        match (trainer.global_step(), progress) {
            (1, Progress::Pending) => trainer.request_checkpoint(),
            (2, Progress::Pending) => trainer.stop_after_step(),
            (_, Progress::CheckpointDue) => assert_eq!(trainer.checkpoint(None).unwrap().global_step(), 2),
            (_, Progress::Event(TrainingEvent::Finished)) => break,
            _ => {}
        }
    }
    let expected = ["started", "e0", "p", "p", "s1", "p", "p", "s2", "c2", "p", "p", "s3", "e3", "f"];
    assert_eq!(story, expected);
    let adapters = trainer.adapters().unwrap();
    assert!(adapters.len() == 2 && adapters[0] == adapters[1], "the ranks have parted");
}
