//! Runs of several ranks on the processor: beside one rank, and beside transformers' Trainer under DistributedDataParallel.

mod equality;
mod failures;
#[expect(dead_code, reason = "its other readers are for other tests")]
#[path = "../parity/golden.rs"]
mod golden;
mod support;
mod trainer;
