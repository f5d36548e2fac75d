//! Whole runs with a scaled loss: what an overflow changes, and what it leaves alone.

use std::sync::Arc;

use luthier_core::lora::peft::PeftAdapter;
use luthier_core::ops::cpu::CpuOps;
use luthier_core::train::{LossScaling, Progress, TrainConfig, Trainer, TrainingEvent, TrainingStep};

use crate::golden::{Golden, close};
use crate::runs::{finish, largest_difference};

type Run = Trainer<CpuOps<f32>>;

/// The first steps overflow with it, not all of eight.
const OVERFLOWING: f64 = (1u128 << 124) as f64;

/// From an adapter whose A is 2⁸ times as large and B as much smaller: the same model with larger gradients of B, so that a large scale
/// makes them overflow f32.
fn start(loss_scaling: Option<LossScaling>, max_steps: u64) -> Run {
    let golden = Golden::open("tied");
    let mut initial = golden.adapter("init_adapter");
    for matrices in initial.modules.values_mut() {
        matrices.a.iter_mut().for_each(|value| *value *= 256.0);
        matrices.b.iter_mut().for_each(|value| *value /= 256.0);
    }
    let ops = Arc::new(CpuOps::<f32>::new(2));
    let base = golden.model(&*ops);
    let config = TrainConfig { loss_scaling, max_steps: Some(max_steps), warmup_steps: 2.0, ..golden.config() };
    Trainer::new(ops, base, config, golden.train(), None, Some(initial)).unwrap()
}

fn scaling(initial_scale: f64) -> Option<LossScaling> {
    Some(LossScaling { initial_scale, ..LossScaling::default() })
}

fn whole(loss_scaling: Option<LossScaling>) -> (Vec<TrainingStep>, PeftAdapter) {
    let mut trainer = start(loss_scaling, 8);
    (finish(&mut trainer).0, trainer.adapter().unwrap())
}

/// Powers of two change no digit, however often the scale grows on the way.
#[test]
fn without_an_overflow_scaling_changes_nothing() {
    let (plain, adapter) = whole(None);
    let growing = LossScaling { initial_scale: 2.0, growth_interval: 2, ..LossScaling::default() };
    for loss_scaling in [LossScaling::default(), growing] {
        let (steps, scaled) = whole(Some(loss_scaling));
        for (found, expected) in steps.iter().zip(&plain) {
            assert!(!found.skipped);
            let numbers = |step: &TrainingStep| (step.loss, step.grad_norm, step.learning_rate);
            assert_eq!(numbers(found), numbers(expected));
        }
        assert_eq!(largest_difference(&scaled, &adapter), 0.0);
    }
}

#[test]
fn a_step_whose_gradients_overflow_is_skipped() {
    let mut trainer = start(scaling(OVERFLOWING), 8);
    let mut before = trainer.adapter().unwrap();
    let rates: Vec<f64> = whole(None).0.iter().map(|step| step.learning_rate).collect();
    let (mut skipped, mut updates) = (0, 0);
    loop {
        let step = match trainer.advance().unwrap() {
            Progress::Event(TrainingEvent::Step(step)) => step,
            Progress::Event(TrainingEvent::Finished) => break,
            _ => continue,
        };
        // The schedule waits, while steps, epochs and examples go on.
        assert_eq!(step.learning_rate, rates[updates]);
        assert_eq!(step.global_step as usize, skipped + updates + 1);
        assert!(step.loss.is_finite() && step.grad_norm.is_finite() != step.skipped);
        let after = trainer.adapter().unwrap();
        if step.skipped {
            assert_eq!(largest_difference(&after, &before), 0.0);
            skipped += 1;
        } else {
            // A warm-up begins at a rate of 0.
            assert_eq!(largest_difference(&after, &before) > 0.0, updates > 0);
            updates += 1;
        }
        before = after;
    }
    assert!(skipped > 0 && updates > 2, "{skipped} steps were skipped of {}", skipped + updates);
    assert_eq!(trainer.global_step(), 8);
}

/// Until the first update every step sees the next examples with the initial adapter, as a run does that learns at a rate of 0.
#[test]
fn examples_go_on_over_a_skipped_step() {
    let (scaled, _) = whole(scaling(OVERFLOWING));
    let golden = Golden::open("tied");
    let ops = Arc::new(CpuOps::<f32>::new(2));
    let (base, initial) = (golden.model(&*ops), golden.adapter("init_adapter"));
    let config = TrainConfig { learning_rate: 0.0, max_steps: Some(8), ..golden.config() };
    let still = finish(&mut Trainer::new(ops, base, config, golden.train(), None, Some(initial)).unwrap()).0;
    let skipped = scaled.iter().take_while(|step| step.skipped).count();
    for (found, expected) in scaled.iter().zip(&still).take(skipped + 1) {
        assert_eq!((found.tokens, found.label_tokens), (expected.tokens, expected.label_tokens));
        close("loss", found.loss, expected.loss, 1e-5);
    }
}

/// Without scaling an overflow is an error, as ever.
#[test]
fn without_scaling_an_overflow_ends_the_run() {
    let golden = Golden::open("tied");
    let mut initial = golden.adapter("init_adapter");
    // So large that the gradient of B overflows, and B so small that the loss does not.
    for matrices in initial.modules.values_mut() {
        matrices.a.iter_mut().for_each(|value| *value *= 2f32.powi(120));
        matrices.b.iter_mut().for_each(|value| *value *= 2f32.powi(-120));
    }
    let ops = Arc::new(CpuOps::<f32>::new(2));
    let base = golden.model(&*ops);
    let mut trainer = Trainer::new(ops, base, golden.config(), golden.train(), None, Some(initial)).unwrap();
    let error = loop {
        match trainer.advance() {
            Ok(Progress::Event(TrainingEvent::Step(step))) => panic!("{step:?}"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.code.as_str(), "NON_FINITE_LOSS");
    assert!(error.message.contains("norm of the gradients"), "{error}");
}

/// A GPU in f16: near the processor's f32, and out of an overflow by itself.
#[cfg(feature = "cuda")]
#[test]
fn f16_on_a_gpu() {
    use luthier_core::ops::Ops;
    use luthier_core::ops::cuda::{CudaOps, NumberType};

    fn steps<O: Ops>(ops: Arc<O>, loss_scaling: Option<LossScaling>, max_steps: u64) -> Vec<TrainingStep> {
        let golden = Golden::open("tied");
        let (base, initial) = (golden.model(&*ops), golden.adapter("init_adapter"));
        let config = TrainConfig { loss_scaling, max_steps: Some(max_steps), ..golden.config() };
        finish(&mut Trainer::new(ops, base, config, golden.train(), None, Some(initial)).unwrap()).0
    }
    let Some(ordinal) = crate::device::gpu() else { return };
    let gpu = Arc::new(CudaOps::open(ordinal, NumberType::F16).unwrap());
    let expected = steps(Arc::new(CpuOps::<f32>::new(2)), None, 50);
    for (found, expected) in steps(gpu.clone(), scaling(1024.0), 50).iter().zip(&expected) {
        assert!(!found.skipped, "step {}", found.global_step);
        close(&format!("step {}: loss", found.global_step), found.loss, expected.loss, 1e-2);
    }
    let steps = steps(gpu, scaling(2f64.powi(40)), 60);
    let skipped = steps.iter().filter(|step| step.skipped).count();
    assert!(steps[0].skipped && !steps[59].skipped, "{skipped} steps were skipped");
    assert!(steps[59].loss < steps[0].loss, "{} to {}", steps[0].loss, steps[59].loss);
}
