//! From a folder to the end of the first step on one GPU: `bench_start FOLDER TYPE WEIGHTS...`.
//!
//! FOLDER is a model's; activations are of TYPE (`bf16`, `f16`, `f32`). For each of WEIGHTS (`stored`, `int8`, `nf4`, `nf4_double_quant`), one
//! after the other in one process: the weights are taken and two steps of 1,024 random ids are trained, LoRA r = 8 on every linear layer. Prints
//! one JSON line for opening the device, then one for each, with the seconds of each part.

use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Instant;

use luthier_core::device::{Device, LoadedModel, RunEvent, TrainingRequest};
use luthier_core::ops::EmbeddingPlace;
use luthier_core::ops::cuda::NumberType;
use luthier_core::quant::WeightStorage;
use luthier_core::train::{Recompute, TrainingEvent};

mod workload;

const USAGE: &str = "usage: bench_start FOLDER bf16|f16|f32 WEIGHTS...";
const SEQ_LEN: usize = 1024;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, kind, storages @ ..] = arguments.as_slice() else { return Err(USAGE.into()) };
    let compute = match kind.as_str() {
        "bf16" => NumberType::BF16,
        "f16" => NumberType::F16,
        "f32" => NumberType::F32,
        _ => return Err(USAGE.into()),
    };
    let begin = Instant::now();
    let device = Device::open_gpus(&[0], 1, compute)?;
    println!("{}", serde_json::json!({ "open_seconds": begin.elapsed().as_secs_f64() }));
    for storage in storages {
        let storage: WeightStorage = storage.parse()?;
        let begin = Instant::now();
        let model = device.load(Path::new(folder), storage, EmbeddingPlace::Device)?;
        let load_seconds = begin.elapsed().as_secs_f64();
        let loaded_bytes = model.weight_bytes();
        let steps = train(&device, model)?;
        let first = load_seconds + steps[0];
        let report = serde_json::json!({
            "weights": storage.name(),
            "load_seconds": load_seconds,
            "loaded_gib": loaded_bytes as f64 / f64::from(1 << 30),
            "to_first_step_seconds": first,
            "first_step_seconds": steps[0],
            "second_step_seconds": steps[1],
        });
        println!("{report}");
    }
    Ok(())
}

/// Seconds from here to the end of the first step, and of the second.
fn train(device: &Device, model: LoadedModel) -> Outcome<[f64; 2]> {
    let begin = Instant::now();
    let examples = workload::examples(32_000, 2, SEQ_LEN, 0.5);
    let request = TrainingRequest {
        model: model.into(),
        config: workload::config(1, 2, Recompute::Layers(0)),
        train: Box::new(examples),
        evaluation: None,
        initial: None,
        resume_from: None,
    };
    let (started, run) = channel();
    device.train(request, move |run| {
        // Nobody waits any more where the process is ending.
        let _ = started.send(run);
    });
    let run = run.recv()??;
    let mut steps = Vec::new();
    loop {
        let (tell, batch) = channel();
        run.events.next(move |batch| {
            let _ = tell.send(batch);
        });
        let batch = batch.recv()?;
        for event in batch.items {
            if let RunEvent::Training(TrainingEvent::Step(_)) = event {
                steps.push(begin.elapsed().as_secs_f64());
            }
        }
        if let Some(end) = batch.end {
            end?;
            let [first, second] = steps[..] else { return Err("expected two steps".into()) };
            return Ok([first, second - first]);
        }
    }
}
