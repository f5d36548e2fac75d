//! What a checkpoint takes: `bench_checkpoint MODEL THREADS RANK FOLDER`, on the processor. FOLDER is on the disk that is to be measured.
//!
//! Prints one JSON line a checkpoint: megabytes, milliseconds that the run waits for the copy (in new memory first, then in the earlier one's),
//! and those of writing through to the disk.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use luthier_core::load;
use luthier_core::lora::LoraConfig;
use luthier_core::model::BaseModel;
use luthier_core::ops::cpu::CpuOps;
use luthier_core::train::checkpoint::{Checkpoint, Snapshot};
use luthier_core::train::{Recompute, TrainConfig, Trainer};
use luthier_core::{EngineError, Result as EngineResult, WeightStorage};

#[path = "workload/mod.rs"]
mod workload;

const USAGE: &str = "usage: bench_checkpoint MODEL THREADS RANK FOLDER";
const CHECKPOINTS: usize = 5;

fn milliseconds<T>(work: impl FnOnce() -> EngineResult<T>) -> EngineResult<(T, f64)> {
    let begin = Instant::now();
    Ok((work()?, begin.elapsed().as_secs_f64() * 1e3))
}

fn main() -> EngineResult<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize| arguments.get(index).and_then(|text: &String| text.parse::<usize>().ok());
    let (Some(threads), Some(r), Some(folder)) = (number(1), number(2), arguments.get(3)) else {
        return Err(EngineError::invalid(USAGE));
    };
    let files = load::open(Path::new(&arguments[0]))?;
    let ops = Arc::new(CpuOps::<f32>::new(threads));
    let base = Arc::new(BaseModel::load(&*ops, &*files, WeightStorage::Stored)?);
    let config = workload::config(1, 3, Recompute::All);
    let config = TrainConfig { lora: LoraConfig { r, ..config.lora }, ..config };
    let train = workload::examples(base.config.vocab_size, 3, 32, 0.5);
    let mut trainer = Trainer::new(ops, base, config, train, None, None)?;
    while trainer.global_step() == 0 {
        trainer.advance()?;
    }
    let mut earlier: Option<Snapshot> = None;
    for number in 0..CHECKPOINTS {
        let (snapshot, capture_ms) = milliseconds(|| trainer.checkpoint(earlier.take()))?;
        let path = Path::new(folder).join(format!("checkpoint-{number}"));
        std::fs::create_dir(&path).map_err(|cause| EngineError::io("create", &path, &cause))?;
        let (_, write_ms) = milliseconds(|| snapshot.write(&path))?;
        let (_, read_ms) = milliseconds(|| Checkpoint::read(&path))?;
        std::fs::remove_dir_all(&path).map_err(|cause| EngineError::io("remove", &path, &cause))?;
        let line = serde_json::json!({
            "parameters": trainer.estimate().trainable_parameters, "megabytes": snapshot.bytes() as f64 / 1e6,
            "capture_ms": capture_ms, "write_ms": write_ms, "read_ms": read_ms,
        });
        println!("{line}");
        earlier = Some(snapshot);
    }
    Ok(())
}
