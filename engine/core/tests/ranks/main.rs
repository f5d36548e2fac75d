//! Runs of several ranks on the processor: beside one rank, and beside transformers' Trainer under DistributedDataParallel.

mod checkpoint;
mod equality;
mod failures;
#[expect(dead_code, reason = "its other readers are for other tests")]
#[path = "../parity/golden.rs"]
mod golden;
#[expect(dead_code, reason = "its cases are of one rank")]
#[path = "../shared/checkpoint.rs"]
mod shared;
mod support;
mod trainer;
