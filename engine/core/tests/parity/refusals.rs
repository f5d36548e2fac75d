//! Input that cannot be worked with, and runs that break.

use std::sync::Arc;

use luthier_core::lora::{LoraConfig, LoraTargets};
use luthier_core::model::TokenExamples;
use luthier_core::ops::cpu::CpuOps;
use luthier_core::train::{Progress, TrainConfig, Trainer, TrainingEvent};
use luthier_core::{EngineError, ErrorCode};

use crate::golden::Golden;

/// The error of a run with changed settings and examples.
fn refused(change: impl FnOnce(&mut TrainConfig, &mut TokenExamples)) -> EngineError {
    let golden = Golden::open("tied");
    let ops = Arc::new(CpuOps::<f32>::new(1));
    let (mut config, mut examples) = (golden.config(), golden.train());
    change(&mut config, &mut examples);
    let base = golden.model(&*ops);
    Trainer::new(ops, base, config, examples, None, None).err().expect("the run cannot be made")
}

#[test]
fn unusable_examples() {
    type Change = fn(&mut TokenExamples);
    let cases: [(Change, ErrorCode, &str); 8] = [
        (|data| *data = TokenExamples::default(), ErrorCode::InvalidArgument, "no training examples"),
        (|data| data.input_ids[3] = 288, ErrorCode::InvalidArgument, "example 0: id 288 at position 3"),
        (|data| data.labels[2] = -7, ErrorCode::InvalidArgument, "label -7"),
        (|data| data.labels[2] = 288, ErrorCode::InvalidArgument, "label 288"),
        (|data| data.offsets[1] = u32::MAX, ErrorCode::InvalidArgument, "do not fit"),
        (|data| data.labels.truncate(5), ErrorCode::InvalidArgument, "do not fit"),
        (
            |data| {
                let (from, to) = (data.offsets[4] as usize, data.offsets[5] as usize);
                data.labels[from + 1..to].fill(-100);
            },
            ErrorCode::NoTrainableTokens,
            "example 4",
        ),
        (
            |data| {
                *data = TokenExamples { input_ids: vec![1; 513], labels: vec![1; 513], offsets: vec![0, 513] };
            },
            ErrorCode::SequenceTooLong,
            "513 tokens; the model's context is 512",
        ),
    ];
    for (change, code, part) in cases {
        let error = refused(|_, examples| change(examples));
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(part), "{error}");
    }
}

#[test]
fn unusable_settings() {
    let error = refused(|config, _| config.learning_rate = f64::NAN);
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    assert!(error.message.contains("learning_rate is NaN"), "{error}");
    let lora = |config: &mut TrainConfig, change: fn(&mut LoraConfig)| change(&mut config.lora);
    let error = refused(|config, _| lora(config, |lora| lora.targets = LoraTargets::named(["q_proj", "W_pack"])));
    assert_eq!(error.code, ErrorCode::UnknownTargetModule);
    assert!(error.message.contains("`W_pack`") && error.message.contains("down_proj"), "{error}");
    let error = refused(|config, _| lora(config, |lora| lora.r = 0));
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    let error = refused(|config, _| lora(config, |lora| lora.lora_alpha = f64::NAN));
    assert_eq!(error.code, ErrorCode::InvalidArgument);
}

#[test]
fn an_adapter_for_another_base() {
    let golden = Golden::open("tied");
    let ops = Arc::new(CpuOps::<f32>::new(1));
    let other = Golden::open("untied");
    let base = other.model(&*ops);
    let initial = Some(golden.adapter("init_adapter"));
    let error = Trainer::new(ops, base, golden.config(), golden.train(), None, initial).err().unwrap();
    assert_eq!(error.code, ErrorCode::AdapterMismatch);
    assert!(error.message.contains("expected"), "{error}");
}

/// As below, but so many steps may be skipped: they are told and counted, the schedule waits for them, and the next one is the error.
#[test]
fn steps_without_a_number_are_skipped_up_to_a_limit() {
    let golden = Golden::open("tied");
    let config = TrainConfig { learning_rate: 1e25, warmup_steps: 0.0, max_non_finite_steps: 3, ..golden.config() };
    let ops = Arc::new(CpuOps::<f32>::new(1));
    let base = golden.model(&*ops);
    let initial = Some(golden.adapter("init_adapter"));
    let mut trainer = Trainer::new(ops, base, config, golden.train(), None, initial).unwrap();
    let mut steps = Vec::new();
    let error = loop {
        match trainer.advance() {
            Ok(Progress::Event(TrainingEvent::Step(step))) => steps.push((step, trainer.adapter().unwrap())),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    let ((first, adapter), skipped) = steps.split_first().unwrap();
    assert!(!first.skipped && first.skipped_steps == 0);
    assert_eq!(skipped.len(), 3);
    for ((step, found), count) in skipped.iter().zip(1..) {
        assert!(step.skipped && step.loss.is_nan() && !step.grad_norm.is_finite());
        assert_eq!((step.skipped_steps, step.global_step), (count, count + 1));
        assert_eq!(step.learning_rate, skipped[0].0.learning_rate);
        assert_eq!(found, adapter);
    }
    assert_eq!(error.code, ErrorCode::NonFiniteLoss);
    assert!(error.message.starts_with("step 5 of 50: the loss is"), "{error}");
}

/// A learning rate that throws the adapter off: the step is named, the run is over, and the adapter is that of the last whole step.
#[test]
fn a_loss_that_is_no_number_ends_the_run_at_its_step() {
    let golden = Golden::open("tied");
    let config = TrainConfig { learning_rate: 1e25, warmup_steps: 0.0, ..golden.config() };
    let ops = Arc::new(CpuOps::<f32>::new(1));
    let base = golden.model(&*ops);
    let initial = Some(golden.adapter("init_adapter"));
    let mut trainer = Trainer::new(ops, base, config, golden.train(), None, initial).unwrap();
    while trainer.global_step() == 0 {
        trainer.advance().unwrap();
    }
    let after_first_step = trainer.adapter().unwrap();
    let error = loop {
        if let Err(error) = trainer.advance() {
            break error;
        }
    };
    assert_eq!(error.code, ErrorCode::NonFiniteLoss);
    assert!(error.message.starts_with("step 2 of 50: the loss is"), "{error}");
    assert!(error.message.contains("model.layers.0"), "{error}");
    assert_eq!(trainer.adapter().unwrap(), after_first_step);
    assert!(after_first_step.modules.values().all(|module| module.a.iter().chain(&module.b).all(|x| x.is_finite())));
    assert_eq!(trainer.advance().unwrap(), Progress::Finished);
}

#[test]
fn settings_that_need_evaluations_without_any() {
    let golden = Golden::open("tied");
    let best = TrainConfig { load_best_model_at_end: true, ..golden.config() };
    let stopping = TrainConfig { early_stopping_patience: Some(2), ..golden.config() };
    for (config, name) in [(best, "load_best_model_at_end"), (stopping, "early_stopping_patience")] {
        let ops = Arc::new(CpuOps::<f32>::new(1));
        let base = golden.model(&*ops);
        let error = Trainer::new(ops, base, config, golden.train(), None, None).err().unwrap();
        assert_eq!(error.code, ErrorCode::InvalidArgument);
        assert!(error.message.starts_with(name), "{error}");
    }
}
