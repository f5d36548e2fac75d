//! Speed of taking a model's weights: `bench_load SHAPE LAYERS THREADS WEIGHTS...`.
//!
//! A model of bf16 numbers in memory, of the shape `baichuan-7b` or `smollm2-135m` with LAYERS layers, is held as WEIGHTS says (`bf16`, `f16`,
//! `int8`, `nf4`, `nf4_double_quant`) on the processor: what reading a file and copying to a GPU take comes on top. Prints one JSON line for each,
//! with the bytes of bf16 that a second does.

use std::time::Instant;

use luthier_core::model::{BaseModel, LINEAR_MODULES};
use luthier_core::ops::Ops;
use luthier_core::ops::cpu::CpuOps;
use luthier_core::quant::WeightStorage;
use luthier_core::{ModelConfig, StoredType};

mod random_model;

const USAGE: &str = "usage: bench_load baichuan-7b|smollm2-135m LAYERS THREADS WEIGHTS...";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [shape, layers, threads, storages @ ..] = arguments.as_slice() else { return Err(USAGE.into()) };
    let threads: usize = threads.parse()?;
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let config = ModelConfig { num_hidden_layers: layers.parse()?, ..random_model::shape(shape).ok_or(USAGE)? };
    let numbers: usize =
        LINEAR_MODULES.map(|module| module.shape(&config)).iter().map(|(out, input)| out * input).sum();
    let source = random_model::RandomModel::new(config.clone(), StoredType::BF16)?;
    let ops = CpuOps::<f32>::new(1);
    // The source makes its bytes when they are first asked for.
    BaseModel::load(&ops, &source, WeightStorage::Stored)?;
    for storage in storages {
        let storage: WeightStorage = storage.parse()?;
        let begin = Instant::now();
        let base = BaseModel::load(&ops, &source, storage)?;
        let seconds = begin.elapsed().as_secs_f64();
        let gigabytes = (2 * numbers * base.layers.len()) as f64 / 1e9;
        let report = serde_json::json!({
            "shape": shape,
            "layers": base.layers.len(),
            "threads": threads,
            "weights": storage.name(),
            "seconds": seconds,
            "gb_per_second": gigabytes / seconds,
            "held_gib": ops.memory().allocated_bytes as f64 / f64::from(1 << 30),
        });
        println!("{report}");
    }
    Ok(())
}
