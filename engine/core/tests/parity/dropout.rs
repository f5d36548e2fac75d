//! Whole runs with dropout.

use std::sync::Arc;

use luthier_core::lora::LoraConfig;
use luthier_core::lora::peft::PeftAdapter;
use luthier_core::model::Examples;
use luthier_core::ops::Ops;
use luthier_core::ops::cpu::CpuOps;
use luthier_core::train::{EvaluationResult, Recompute, TrainConfig, Trainer, TrainingPlan, TrainingStep};

use crate::device::on_device;
use crate::golden::{Golden, close};
use crate::runs::{finish, largest_difference};

#[derive(Clone, Copy)]
struct Settings {
    lora_dropout: f64,
    seed: u64,
    threads: usize,
    recompute_layers: usize,
}

const SETTINGS: Settings = Settings { lora_dropout: 0.1, seed: 3, threads: 2, recompute_layers: 0 };

/// Six steps of three micro-batches.
fn run(settings: Settings) -> (Vec<TrainingStep>, Vec<EvaluationResult>, PeftAdapter) {
    let golden = Golden::open("tied");
    let ops = Arc::new(CpuOps::<f32>::new(settings.threads));
    let lora = LoraConfig { lora_dropout: settings.lora_dropout, seed: settings.seed, ..golden.config().lora };
    let (max_steps, recompute_layers) = (Some(6), settings.recompute_layers);
    let config = TrainConfig {
        lora,
        max_steps,
        recompute_layers: Recompute::Layers(recompute_layers),
        warmup_steps: 0.0,
        ..golden.config()
    };
    let (base, initial) = (golden.model(&*ops), golden.adapter("init_adapter"));
    let mut trainer =
        Trainer::new(ops, base, config, golden.train(), Some(Box::new(golden.evaluation())), Some(initial)).unwrap();
    let (steps, evaluations) = finish(&mut trainer);
    (steps, evaluations, trainer.adapter().unwrap())
}

fn losses(steps: &[TrainingStep]) -> Vec<(f64, f64)> {
    steps.iter().map(|step| (step.loss, step.grad_norm)).collect()
}

#[test]
fn neither_threads_nor_recomputing_change_a_bit() {
    let (steps, _, adapter) = run(SETTINGS);
    assert_eq!(adapter.lora_dropout, 0.1);
    let others = [
        SETTINGS,
        Settings { threads: 1, ..SETTINGS },
        Settings { threads: 3, ..SETTINGS },
        Settings { recompute_layers: 1, ..SETTINGS },
        Settings { recompute_layers: 9, threads: 3, ..SETTINGS },
    ];
    for other in others {
        let (other_steps, _, other) = run(other);
        assert_eq!(losses(&steps), losses(&other_steps));
        assert_eq!(largest_difference(&adapter, &other), 0.0);
    }
}

#[test]
fn the_seed_and_the_share_change_the_run() {
    let (steps, ..) = run(SETTINGS);
    for other in [Settings { seed: 4, ..SETTINGS }, Settings { lora_dropout: 0.0, ..SETTINGS }] {
        assert_ne!(run(other).0[0].loss, steps[0].loss);
    }
    // Without dropout the seed has nothing to draw where training starts from an adapter.
    let plain = Settings { lora_dropout: 0.0, ..SETTINGS };
    assert_eq!(losses(&run(plain).0), losses(&run(Settings { seed: 4, ..plain }).0));
}

/// The first evaluation is of the initial adapter: nothing is dropped in it.
#[test]
fn evaluation_drops_nothing() {
    let first = |settings| run(settings).1.remove(0);
    assert_eq!(first(SETTINGS), first(Settings { lora_dropout: 0.0, ..SETTINGS }));
}

/// Dropout costs one masked copy of the widest input, and nothing where it is off.
#[test]
fn memory() {
    let bytes = |lora_dropout| run(Settings { lora_dropout, ..SETTINGS }).0[0].peak_allocated_bytes;
    let golden = Golden::open("tied");
    let config = golden.model(&CpuOps::<f32>::new(1)).config.clone();
    let train = golden.train();
    let rows =
        TrainingPlan::new(&TrainConfig { max_steps: Some(6), ..golden.config() }, train.lengths()).largest_batch().rows;
    let widest = config.hidden_size.max(config.intermediate_size).max(config.query_size());
    let (extra, expected) = (bytes(0.5) - bytes(0.0), (rows * widest * size_of::<f32>()) as u64);
    // Allocations have room to be aligned.
    assert!((expected..=expected + 64).contains(&extra), "{extra} bytes; expected {expected}");
}

/// Twenty steps of the same masks and the same examples in f32 and f64.
fn beside_f64<O: Ops>(ops: Arc<O>) {
    fn losses<O: Ops>(ops: Arc<O>) -> Vec<TrainingStep> {
        let golden = Golden::open("tied");
        let lora = LoraConfig { lora_dropout: 0.1, ..golden.config().lora };
        let config =
            TrainConfig { lora, max_steps: Some(20), recompute_layers: Recompute::Layers(1), ..golden.config() };
        let (base, initial) = (golden.model(&*ops), golden.adapter("init_adapter"));
        finish(&mut Trainer::new(ops, base, config, golden.train(), None, Some(initial)).unwrap()).0
    }
    for (found, expected) in losses(ops).iter().zip(losses(Arc::new(CpuOps::<f64>::new(2)))) {
        close(&format!("step {}: loss", found.global_step), found.loss, expected.loss, 1e-5);
        close(&format!("step {}: grad_norm", found.global_step), found.grad_norm, expected.grad_norm, 1e-5);
    }
}

#[test]
fn twenty_steps_equal_those_in_f64() {
    on_device!(beside_f64());
}
