//! Speed and memory of training on one model file: `bench_train MODEL THREADS BATCH SEQ STEPS [LABEL_SHARE [STORAGE]]`.
//!
//! LoRA r = 8 on every linear layer; random ids, the same in every step; the last share of each example is labelled (1: everything);
//! STORAGE is how linear weights are held, such as nf4. Prints one JSON line: the median step after the first, memory, and how much of the machine's f32 matrix product rate the step reaches.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use luthier_core::load;
use luthier_core::model::{BaseModel, Examples, LINEAR_MODULES, LinearModule};
use luthier_core::ops::cpu::CpuOps;
use luthier_core::ops::{Matrix, MatrixMut, Ops, View, ViewMut};
use luthier_core::random::MersenneTwister;
use luthier_core::train::{Progress, Recompute, Trainer, TrainingEvent};
use luthier_core::{ModelConfig, Result as EngineResult, WeightStorage};

use crate::workload::RANK;

mod workload;

const USAGE: &str = "usage: bench_train MODEL THREADS BATCH SEQ STEPS [LABEL_SHARE [STORAGE]]";
/// Rows, columns and inner dimension of the product that the roof is measured with.
const ROOF_SIZE: usize = 1536;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (path, counts, share, storage) = match arguments.as_slice() {
        [path, counts @ ..] if counts.len() == 4 => (path, counts, 1.0, WeightStorage::Stored),
        [path, counts @ .., share] if counts.len() == 4 => (path, counts, share.parse()?, WeightStorage::Stored),
        [path, counts @ .., share, storage] if counts.len() == 4 => (path, counts, share.parse()?, storage.parse()?),
        _ => return Err(USAGE.into()),
    };
    let counts = counts.iter().map(|count| count.parse()).collect::<Result<Vec<usize>, _>>()?;
    let [threads, batch, seq, steps] = counts[..] else { return Err(USAGE.into()) };

    let ops = Arc::new(CpuOps::<f32>::new(threads));
    let base = Arc::new(BaseModel::load(&*ops, &*load::open(Path::new(path))?, storage)?);
    let model = base.config.clone();
    // Before and after: on a busy machine one measurement alone may meet a slow moment.
    let roof_before = gemm_roof(&ops, threads)?;
    let examples = workload::examples(model.vocab_size, batch, seq, share);
    let labelled: usize = (0..batch).map(|index| examples.label_count(index)).sum();
    let mut trainer =
        Trainer::new(ops.clone(), base, workload::config(batch, steps, Recompute::Layers(0)), examples, None, None)?;
    let mut seconds = Vec::with_capacity(steps);
    let mut begin = Instant::now();
    loop {
        match trainer.advance()? {
            Progress::Event(TrainingEvent::Started { .. }) => begin = Instant::now(),
            Progress::Event(TrainingEvent::Step(_)) => {
                seconds.push(begin.elapsed().as_secs_f64());
                begin = Instant::now();
            }
            Progress::Event(TrainingEvent::Finished) | Progress::Finished => break,
            Progress::Event(TrainingEvent::Evaluation(_)) | Progress::Pending | Progress::CheckpointDue => {}
        }
    }
    let peak_allocated = ops.memory().peak_allocated_bytes;
    let peak_resident = peak_resident_bytes();
    drop(trainer);
    let median = median(if steps > 1 { seconds.split_off(1) } else { seconds });
    let roof = gemm_roof(&ops, threads)?.max(roof_before);
    let achieved = step_flops(&model, batch, seq, labelled) / median / 1e9;
    let report = serde_json::json!({
        "tokens_per_second": (batch * seq) as f64 / median,
        "seconds_per_step": median,
        "peak_allocated_bytes": peak_allocated,
        "peak_rss_bytes": peak_resident,
        "gemm_roof_gflops": roof,
        "achieved_gflops": achieved,
        "share_of_roof": achieved / roof,
        "instruction_set": ops.instruction_set(),
    });
    println!("{report}");
    Ok(())
}

/// Multiplications and additions that a step cannot do without: forward and gradient with respect to the input of every frozen weight, the
/// low-rank products and their gradients, causal attention; the output layer, and in the last block all after attention, for labelled rows. Nothing
/// computed twice is counted twice.
fn step_flops(model: &ModelConfig, batch: usize, seq: usize, labelled: usize) -> f64 {
    let (tokens, layers) = ((batch * seq) as f64, model.num_hidden_layers as f64);
    let linear = |module: LinearModule| {
        let (out, input) = module.shape(model);
        4.0 * (out * input) as f64 + 6.0 * (RANK * (out + input)) as f64
    };
    let block: f64 = LINEAR_MODULES.map(linear).iter().sum();
    let left_out = [LinearModule::Output, LinearModule::Gate, LinearModule::Up, LinearModule::Down].map(linear);
    let left_out = (tokens - labelled as f64) * left_out.iter().sum::<f64>();
    let attention = 6.0 * seq as f64 * model.query_size() as f64;
    layers * tokens * (block + attention) - left_out + 4.0 * (labelled * model.vocab_size * model.hidden_size) as f64
}

/// The fastest large f32 product on this machine in 10⁹ operations a second: the better of the engine's and the `gemm` crate's.
fn gemm_roof(ops: &CpuOps<f32>, threads: usize) -> EngineResult<f64> {
    const N: usize = ROOF_SIZE;
    let mut random = MersenneTwister::new(1);
    let mut numbers = || (0..N * N).map(|_| random.uniform_f32(1.0)).collect::<Vec<f32>>();
    let (a, b) = (numbers(), numbers());
    let mut c = vec![0f32; N * N];
    let parallelism = if threads == 1 { gemm::Parallelism::None } else { gemm::Parallelism::Rayon(threads) };
    let (row, column) = (N as isize, 1);
    let crates = best_seconds(|| {
        // SAFETY: three row-major matrices of N × N numbers, the first borrowed alone.
        unsafe {
            gemm::gemm(
                N,
                N,
                N,
                c.as_mut_ptr(),
                column,
                row,
                false,
                a.as_ptr(),
                column,
                row,
                b.as_ptr(),
                column,
                row,
                0.0,
                1.0,
                false,
                false,
                false,
                parallelism,
            );
        }
        Ok(())
    })?;
    let (mut left, mut right, mut out) = (ops.allocate(N * N)?, ops.allocate(N * N)?, ops.allocate(N * N)?);
    ops.write(&a, ViewMut::from(&mut left))?;
    ops.write(&b, ViewMut::from(&mut right))?;
    let ours = best_seconds(|| {
        let a = Matrix { view: View::from(&left), row_stride: N, column_stride: 1 };
        let b = Matrix { view: View::from(&right), row_stride: N, column_stride: 1 };
        let c = MatrixMut { view: ViewMut::from(&mut out), row_stride: N, column_stride: 1 };
        ops.gemm(N, N, N, 1.0, a, b, false, c)
    })?;
    Ok(2.0 * (N as f64).powi(3) / crates.min(ours) / 1e9)
}

/// Seconds of the fastest of several runs.
fn best_seconds(mut work: impl FnMut() -> EngineResult<()>) -> EngineResult<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..20 {
        let begin = Instant::now();
        work()?;
        best = best.min(begin.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] }
}

/// The process's largest resident set so far, mapped files included; `None` where the system does not say.
fn peak_resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
