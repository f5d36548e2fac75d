//! Speed and memory of training on one GPU: `bench_gpu SHAPE TYPE WEIGHTS BATCH SEQ STEPS [auto|all|RECOMPUTED_LAYERS
//! [LABEL_SHARE]] [--offload-activations] [--embedding-in-host-memory] [--lora-dropout=P]`.
//!
//! A model of the shape `baichuan-7b` or `smollm2-135m` with random weights, activations of TYPE (`bf16`, `f16`, `f32`), weights of that type
//! or held as WEIGHTS says (`stored`, `int8`, `nf4`, `nf4_double_quant`; `q4_0`, `q8_0`, `q4_k`, `q6_k`: all matrices stored so), LoRA
//! r = 8 on every linear layer; random ids, the last share of each example labelled. The options keep the inputs of recomputed layers and the
//! embedding table in locked host memory. Prints one JSON line.

use std::sync::Arc;
use std::time::Instant;

use candle_core::quantized::GgmlDType;
use luthier_core::StoredType;
use luthier_core::model::BaseModel;
use luthier_core::ops::cuda::{CudaOps, NumberType};
use luthier_core::ops::{EmbeddingPlace, Ops};
use luthier_core::quant::WeightStorage;
use luthier_core::train::{LossScaling, Progress, Recompute, TrainConfig, Trainer, TrainingEvent};

mod random_model;
mod workload;

const USAGE: &str = "usage: bench_gpu baichuan-7b|smollm2-135m bf16|f16|f32 WEIGHTS BATCH SEQ STEPS [auto|all|RECOMPUTED_LAYERS [LABEL_SHARE]] [--offload-activations] [--embedding-in-host-memory] [--lora-dropout=P]";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (options, arguments): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with("--"));
    let (mut offload_activations, mut embedding, mut dropout) = (false, EmbeddingPlace::Device, 0.0);
    for option in options {
        match option.as_str() {
            "--offload-activations" => offload_activations = true,
            "--embedding-in-host-memory" => embedding = EmbeddingPlace::Host,
            other => match other.strip_prefix("--lora-dropout=") {
                Some(share) => dropout = share.parse()?,
                None => return Err(USAGE.into()),
            },
        }
    }
    let [shape, kind, held, numbers @ ..] = arguments.as_slice() else { return Err(USAGE.into()) };
    let (counts, recompute, share): (_, Recompute, f64) = match numbers {
        [batch, seq, steps] => ([batch, seq, steps], Recompute::Layers(0), 0.5),
        [batch, seq, steps, recompute] => ([batch, seq, steps], recompute.parse()?, 0.5),
        [batch, seq, steps, recompute, share] => ([batch, seq, steps], recompute.parse()?, share.parse()?),
        _ => return Err(USAGE.into()),
    };
    let [batch, seq, steps] = counts.map(|count| count.parse::<usize>());
    let (batch, seq, steps) = (batch?, seq?, steps?);
    let config = random_model::shape(shape).ok_or(USAGE)?;
    let (compute, stored) = match kind.as_str() {
        "bf16" => (NumberType::BF16, StoredType::BF16),
        "f16" => (NumberType::F16, StoredType::F16),
        "f32" => (NumberType::F32, StoredType::F32),
        _ => return Err(USAGE.into()),
    };
    let block_types = [GgmlDType::Q4_0, GgmlDType::Q8_0, GgmlDType::Q4K, GgmlDType::Q6K].map(StoredType::Ggml);
    let (stored, storage) = match block_types.into_iter().find(|found| found.name() == held) {
        Some(blocks) => (blocks, WeightStorage::Stored),
        None => (stored, held.parse()?),
    };
    let ops = Arc::new(CudaOps::open(0, compute)?);
    let source = random_model::RandomModel::new(config.clone(), stored)?;
    let begin = Instant::now();
    let base = Arc::new(BaseModel::load_placed(&*ops, &source, storage, embedding)?);
    let load_seconds = begin.elapsed().as_secs_f64();
    let weight_bytes = ops.memory().allocated_bytes;
    let examples = workload::examples(config.vocab_size, batch, seq, share);
    let loss_scaling = (compute == NumberType::F16).then(LossScaling::default);
    let mut settings = TrainConfig { offload_activations, loss_scaling, ..workload::config(batch, steps, recompute) };
    settings.lora.lora_dropout = dropout;
    let mut trainer = Trainer::new(ops.clone(), base, settings, examples, None, None)?;
    let planned = trainer.estimate().memory.plan;
    let (mut seconds, mut losses) = (Vec::with_capacity(steps), Vec::new());
    let mut begin = Instant::now();
    loop {
        match trainer.advance()? {
            Progress::Event(TrainingEvent::Started { .. }) => begin = Instant::now(),
            Progress::Event(TrainingEvent::Step(step)) => {
                ops.synchronize()?;
                seconds.push(begin.elapsed().as_secs_f64());
                losses.push(step.loss);
                begin = Instant::now();
            }
            Progress::Event(TrainingEvent::Finished) | Progress::Finished => break,
            Progress::Event(TrainingEvent::Evaluation(_)) | Progress::Pending | Progress::CheckpointDue => {}
        }
    }
    let mut sorted = seconds.split_off(steps.min(3) - 1);
    sorted.sort_unstable_by(f64::total_cmp);
    let median = sorted[sorted.len() / 2];
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let report = serde_json::json!({
        "shape": shape,
        "type": kind,
        "weights": held,
        "batch": batch,
        "seq": seq,
        "recomputed_layers": planned.recompute_layers,
        "planned_bytes": planned.total_bytes(),
        "planned_pinned_host_bytes": planned.pinned_host_bytes,
        "offload_activations": offload_activations,
        "lora_dropout": dropout,
        "embedding_in_host_memory": embedding == EmbeddingPlace::Host,
        "tokens_per_second": (batch * seq) as f64 / median,
        "seconds_per_step": median,
        "weights_gib": gib(weight_bytes),
        "peak_allocated_gib": gib(ops.memory().peak_allocated_bytes),
        "pinned_host_gib": gib(ops.memory().pinned_host_bytes),
        "load_seconds": load_seconds,
        "losses": [losses[0], losses[losses.len() - 1]],
    });
    println!("{report}");
    Ok(())
}
