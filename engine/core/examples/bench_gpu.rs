//! Speed and memory of training on one GPU: `bench_gpu SHAPE TYPE WEIGHTS BATCH SEQ STEPS [RECOMPUTED_LAYERS
//! [LABEL_SHARE]]`.
//!
//! A model of the shape `baichuan-7b` or `smollm2-135m` with random weights, activations of TYPE (`bf16`, `f16`, `f32`), weights of that type
//! or held as WEIGHTS says (`stored`, `int8`, `nf4`, `nf4_double_quant`), LoRA
//! r = 8 on every linear layer; random ids, the last share of each example labelled. Prints one JSON line.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use luthier_core::model::{BaseModel, TensorSource};
use luthier_core::ops::Ops;
use luthier_core::ops::cuda::{CudaOps, NumberType};
use luthier_core::quant::WeightStorage;
use luthier_core::random::MersenneTwister;
use luthier_core::train::{Progress, Recompute, Trainer, TrainingEvent};
use luthier_core::{HostTensor, ModelConfig, Result as EngineResult, StoredType, TensorBytes};

mod workload;

const USAGE: &str = "usage: bench_gpu baichuan-7b|smollm2-135m bf16|f16|f32 WEIGHTS BATCH SEQ STEPS [auto|all|RECOMPUTED_LAYERS [LABEL_SHARE]]";
/// Largest random number of a weight, about that of a model's usual initialisation.
const SPREAD: f32 = 0.03;

type BytesByShape = HashMap<(usize, usize), Arc<[u8]>>;

/// Random weights: all tensors of one shape are the same bytes, so that the host holds few of them.
struct RandomModel {
    config: ModelConfig,
    stored: StoredType,
    numbers: Vec<f32>,
    made: RefCell<BytesByShape>,
}

impl TensorSource for RandomModel {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn tensor(&self, name: &str) -> EngineResult<HostTensor> {
        let ModelConfig { hidden_size, vocab_size, .. } = self.config;
        if name.ends_with("norm.weight") {
            let bytes: Vec<u8> = std::iter::repeat_n(1f32.to_le_bytes(), hidden_size).flatten().collect();
            return Ok(HostTensor::new(StoredType::F32, vec![hidden_size], TensorBytes::Owned(bytes.into())));
        }
        let linear = luthier_core::model::LINEAR_MODULES.into_iter().find(|module| name.contains(module.path()));
        let (rows, columns) = linear.map_or((vocab_size, hidden_size), |module| module.shape(&self.config));
        let mut made = self.made.borrow_mut();
        let bytes = made.entry((rows, columns)).or_insert_with(|| {
            let numbers = self.numbers.iter().cycle().take(rows * columns);
            let bytes: Vec<u8> = match self.stored {
                StoredType::F16 => numbers.flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
                StoredType::BF16 => numbers.flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
                _ => numbers.flat_map(|x| x.to_le_bytes()).collect(),
            };
            bytes.into()
        });
        let bytes = TensorBytes::Owned(bytes.clone());
        Ok(HostTensor::new(self.stored, vec![rows, columns], bytes))
    }
}

fn model(shape: &str) -> Option<ModelConfig> {
    let llama = ModelConfig {
        model_type: "llama".to_owned(),
        vocab_size: 64_000,
        hidden_size: 4096,
        intermediate_size: 11_008,
        num_hidden_layers: 32,
        num_attention_heads: 32,
        num_key_value_heads: 32,
        head_dim: 128,
        max_position_embeddings: 4096,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        tie_word_embeddings: false,
        eos_token_ids: Vec::new(),
        bos_token_id: None,
    };
    match shape {
        "baichuan-7b" => Some(llama),
        "smollm2-135m" => Some(ModelConfig {
            vocab_size: 49_152,
            hidden_size: 576,
            intermediate_size: 1536,
            num_hidden_layers: 30,
            num_attention_heads: 9,
            num_key_value_heads: 3,
            head_dim: 64,
            tie_word_embeddings: true,
            ..llama
        }),
        _ => None,
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [shape, kind, held, numbers @ ..] = arguments.as_slice() else { return Err(USAGE.into()) };
    let (counts, recompute, share): (_, Recompute, f64) = match numbers {
        [batch, seq, steps] => ([batch, seq, steps], Recompute::Layers(0), 0.5),
        [batch, seq, steps, recompute] => ([batch, seq, steps], recompute.parse()?, 0.5),
        [batch, seq, steps, recompute, share] => ([batch, seq, steps], recompute.parse()?, share.parse()?),
        _ => return Err(USAGE.into()),
    };
    let [batch, seq, steps] = counts.map(|count| count.parse::<usize>());
    let (batch, seq, steps) = (batch?, seq?, steps?);
    let config = model(shape).ok_or(USAGE)?;
    let (compute, stored) = match kind.as_str() {
        "bf16" => (NumberType::BF16, StoredType::BF16),
        "f16" => (NumberType::F16, StoredType::F16),
        "f32" => (NumberType::F32, StoredType::F32),
        _ => return Err(USAGE.into()),
    };
    let storage: WeightStorage = held.parse()?;
    let ops = Arc::new(CudaOps::open(0, compute)?);
    let mut random = MersenneTwister::new(1);
    // A prime number, so that windows of it differ from row to row.
    let numbers = (0..1_000_003).map(|_| random.uniform_f32(SPREAD)).collect();
    let begin = Instant::now();
    let base = Arc::new(BaseModel::load(
        &*ops,
        &RandomModel { config: config.clone(), stored, numbers, made: RefCell::default() },
        storage,
    )?);
    let load_seconds = begin.elapsed().as_secs_f64();
    let weight_bytes = ops.memory().allocated_bytes;
    let examples = workload::examples(config.vocab_size, batch, seq, share);
    let mut trainer = Trainer::new(ops.clone(), base, workload::config(batch, steps, recompute), examples, None, None)?;
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
            Progress::Event(TrainingEvent::Evaluation(_)) | Progress::Pending => {}
        }
    }
    let mut sorted = seconds.split_off(steps.min(3) - 1);
    sorted.sort_unstable_by(f64::total_cmp);
    let median = sorted[sorted.len() / 2];
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let report = serde_json::json!({
        "shape": shape,
        "type": kind,
        "weights": storage.name(),
        "batch": batch,
        "seq": seq,
        "recomputed_layers": planned.recompute_layers,
        "planned_bytes": planned.total_bytes(),
        "tokens_per_second": (batch * seq) as f64 / median,
        "seconds_per_step": median,
        "weights_gib": gib(weight_bytes),
        "peak_allocated_gib": gib(ops.memory().peak_allocated_bytes),
        "load_seconds": load_seconds,
        "losses": [losses[0], losses[losses.len() - 1]],
    });
    println!("{report}");
    Ok(())
}
