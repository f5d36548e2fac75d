//! Checkpoints: runs that are cut anywhere and gone on with, files that are not as they were written, runs that are others.

mod due;
mod exact;
mod files;
#[path = "../parity/golden.rs"]
#[expect(dead_code, reason = "its other parts are for other tests")]
mod golden;
mod mismatch;
#[path = "../shared/checkpoint.rs"]
mod shared;

use std::sync::Arc;

use luthier_core::ops::cpu::CpuOps;
use luthier_core::train::TrainConfig;

use golden::Golden;
use shared::Case;

/// Over three epochs in random order, of eleven micro-batches in groups of four, four and three; two evaluations of three batches an epoch.
pub fn case(change: impl FnOnce(&mut TrainConfig)) -> Case<CpuOps<f32>> {
    let golden = Golden::open("tied");
    let ops = Arc::new(CpuOps::<f32>::new(2));
    let mut config = TrainConfig {
        gradient_accumulation_steps: 4,
        max_steps: None,
        num_train_epochs: 3.0,
        warmup_steps: 2.0,
        eval_steps: Some(2),
        ..golden.config()
    };
    change(&mut config);
    Case {
        base: golden.model(&*ops),
        ops,
        config,
        train: golden.train(),
        evaluation: Some(golden.evaluation()),
        initial: Some(golden.adapter("init_adapter")),
    }
}
