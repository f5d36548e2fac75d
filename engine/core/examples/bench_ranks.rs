//! Speed of training on several GPUs beside one: `bench_ranks SHAPE TYPE WEIGHTS BATCH SEQ STEPS [--devices=0,1] [--bucket=NUMBERS]
//! [--recompute=auto|all|LAYERS] [--accumulation=STEPS]`.
//!
//! SHAPE, TYPE and WEIGHTS as of `bench_gpu`; every GPU has BATCH examples of SEQ tokens in a micro-batch. Prints one JSON line for the first
//! GPU alone, one for all with gradients summed after the backward pass, and one with sums that begin during it, in buckets of so many numbers.

use std::sync::Arc;
use std::time::Instant;

use luthier_core::StoredType;
use luthier_core::model::{BaseModel, TokenExamples};
use luthier_core::ops::Ops;
use luthier_core::ops::cuda::{BUCKET_LEN, CudaOps, NumberType, nccl};
use luthier_core::quant::WeightStorage;
use luthier_core::ranks::{DEADLINE, RankThread};
use luthier_core::train::{
    Progress, Rank, RankedInputs, RankedTrainer, Recompute, TrainConfig, Trainer, TrainingEvent, TrainingStep,
};

mod random_model;
mod workload;

const USAGE: &str = "usage: bench_ranks baichuan-7b|smollm2-135m bf16|f16|f32 WEIGHTS BATCH SEQ STEPS [--devices=0,1] [--bucket=NUMBERS] [--recompute=auto|all|LAYERS] [--accumulation=STEPS]";

struct Gpu {
    name: String,
    ops: Arc<CudaOps>,
    base: Arc<BaseModel<CudaOps>>,
    thread: Arc<RankThread>,
}

impl Gpu {
    fn rank(&self) -> Rank<CudaOps> {
        Rank { name: self.name.clone(), ops: self.ops.clone(), base: self.base.clone() }
    }
}

/// The steps of a run with the seconds of each.
fn run(mut advance: impl FnMut() -> luthier_core::Result<Progress>) -> luthier_core::Result<Vec<(f64, TrainingStep)>> {
    let (mut steps, mut begin) = (Vec::new(), Instant::now());
    loop {
        match advance()? {
            Progress::Event(TrainingEvent::Started(_)) => begin = Instant::now(),
            Progress::Event(TrainingEvent::Step(step)) => {
                steps.push((begin.elapsed().as_secs_f64(), step));
                begin = Instant::now();
            }
            Progress::Event(TrainingEvent::Finished) | Progress::Finished => return Ok(steps),
            Progress::Event(TrainingEvent::Evaluation(_)) | Progress::Pending | Progress::CheckpointDue => {}
        }
    }
}

/// Of the steps after the first three; the median.
fn report(what: &str, gpus: usize, mut steps: Vec<(f64, TrainingStep)>, alone: Option<f64>) -> f64 {
    let mut kept = steps.split_off(steps.len().min(3));
    kept.sort_unstable_by(|a, b| f64::total_cmp(&a.0, &b.0));
    let (seconds, step) = &kept[kept.len() / 2];
    let rate = step.tokens as f64 / seconds;
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let line = serde_json::json!({
        "run": what,
        "gpus": gpus,
        "tokens_per_second": rate,
        "seconds_per_step": seconds,
        "of_linear_scaling": alone.map(|alone| rate / (alone * gpus as f64)),
        "communication_share": step.devices.iter().map(|device| device.communication_share).collect::<Vec<_>>(),
        "peak_allocated_gib": step.devices.iter().map(|device| gib(device.peak_allocated_bytes)).collect::<Vec<_>>(),
        "loss": kept.iter().max_by_key(|(_, step)| step.global_step).map(|(_, step)| step.loss),
    });
    println!("{line}");
    rate
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (options, arguments): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with("--"));
    let (mut devices, mut bucket_len) = (vec![0, 1], BUCKET_LEN);
    let (mut recompute, mut accumulation) = (Recompute::Layers(0), 1);
    for option in options {
        match option.split_once('=').ok_or(USAGE)? {
            ("--devices", list) => devices = list.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>()?,
            ("--bucket", numbers) => bucket_len = numbers.parse()?,
            ("--recompute", layers) => recompute = layers.parse()?,
            ("--accumulation", steps) => accumulation = steps.parse()?,
            _ => return Err(USAGE.into()),
        }
    }
    let [shape, kind, held, counts @ ..] = arguments.as_slice() else { return Err(USAGE.into()) };
    let [batch, seq, steps] = counts else { return Err(USAGE.into()) };
    let (batch, seq, steps): (usize, usize, usize) = (batch.parse()?, seq.parse()?, steps.parse()?);
    if steps < 4 {
        return Err("STEPS: expected at least 4, of which the first three are not timed".into());
    }
    let config = random_model::shape(shape).ok_or(USAGE)?;
    let (compute, stored) = match kind.as_str() {
        "bf16" => (NumberType::BF16, StoredType::BF16),
        "f16" => (NumberType::F16, StoredType::F16),
        "f32" => (NumberType::F32, StoredType::F32),
        _ => return Err(USAGE.into()),
    };
    let storage: WeightStorage = held.parse()?;
    let source = random_model::RandomModel::new(config.clone(), stored)?;
    let mut gpus = Vec::new();
    for device in &devices {
        let ops = Arc::new(CudaOps::open(*device, compute)?);
        let base = Arc::new(BaseModel::load(&*ops, &source, storage)?);
        let name = format!("cuda:{device}");
        let weights = ops.memory().allocated_bytes as f64 / f64::from(1 << 30);
        eprintln!("{name}: {:?}, weights {weights:.2} GiB", ops.describe()?);
        gpus.push(Gpu { thread: Arc::new(RankThread::start(&name)?), name, ops, base });
    }
    let settings =
        TrainConfig { gradient_accumulation_steps: accumulation, ..workload::config(batch, steps, recompute) };
    let examples = |ranks: usize| -> TokenExamples {
        workload::examples(config.vocab_size, batch * ranks * accumulation, seq, 0.5)
    };
    let first = &gpus[0];
    let mut trainer = Trainer::new(first.ops.clone(), first.base.clone(), settings.clone(), examples(1), None, None)?;
    let alone = report("one GPU", 1, run(|| trainer.advance())?, None);
    drop(trainer);
    for (what, bucket) in [("summed after the backward pass", None), ("summed during it", Some(bucket_len))] {
        let train = Arc::new(examples(gpus.len()));
        let inputs = RankedInputs {
            config: settings.clone(),
            train,
            evaluation: None,
            initial: None,
            model: None,
            resume_from: None,
        };
        let others = gpus[1..].iter().map(|gpu| (gpu.rank(), gpu.thread.clone())).collect();
        let mut trainer = RankedTrainer::new(gpus[0].rank(), others, &inputs, &nccl(bucket), DEADLINE)?;
        report(what, gpus.len(), run(|| trainer.advance())?, Some(alone));
    }
    Ok(())
}
