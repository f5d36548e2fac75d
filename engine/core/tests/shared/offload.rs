//! Training with the inputs of recomputed blocks outside the device's memory beside training with them in it, on any device.

use std::path::PathBuf;
use std::sync::Arc;

use luthier_core::load::{self, ModelFiles};
use luthier_core::lora::peft::PeftAdapter;
use luthier_core::lora::{LoraConfig, LoraTargets};
use luthier_core::model::{BaseModel, TensorSource, TokenExamples};
use luthier_core::ops::{EmbeddingPlace, Ops};
use luthier_core::train::{LrSchedulerType, Progress, Recompute, TrainConfig, Trainer, TrainingEvent};
use luthier_core::{ErrorCode, HostTensor, ModelConfig, Result, WeightStorage};

/// The tiny model whose output layer is its own, with its two blocks one after the other as often as it takes.
struct Repeated {
    files: Box<dyn ModelFiles>,
    config: ModelConfig,
}

impl Repeated {
    fn new(blocks: usize) -> Self {
        // Cargo's variable of the moment first: the program may run elsewhere than where it was built.
        let package = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
        let files = load::open(&PathBuf::from(package).join("../../test/parity/golden/untied/model")).unwrap();
        let config = ModelConfig { num_hidden_layers: blocks, ..files.config().clone() };
        Self { files, config }
    }
}

impl TensorSource for Repeated {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn tensor(&self, name: &str) -> Result<HostTensor> {
        let Some((block, rest)) = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) else {
            return self.files.tensor(name);
        };
        let block: usize = block.parse().unwrap();
        self.files.tensor(&format!("model.layers.{}.{rest}", block % self.files.config().num_hidden_layers))
    }
}

/// Examples of these lengths, all labelled.
fn examples(lengths: &[u32]) -> TokenExamples {
    let mut examples = TokenExamples { offsets: vec![0], ..TokenExamples::default() };
    for length in lengths {
        let first = examples.input_ids.len() as u32;
        examples.input_ids.extend((first..first + length).map(|position| position * 7919 % 200 + 1));
        examples.offsets.push(first + length);
    }
    examples.labels = examples.input_ids.iter().map(|id| *id as i32).collect();
    examples
}

/// Micro-batches of differing sizes, accumulated; evaluations between steps. Everything is learned fast, so that no gradient stays zero.
fn config(recompute_layers: usize, offload_activations: bool) -> TrainConfig {
    TrainConfig {
        lora: LoraConfig {
            r: 2,
            lora_alpha: 4.0,
            lora_dropout: 0.0,
            targets: LoraTargets::default(),
            use_rslora: false,
            seed: 3,
        },
        learning_rate: 0.01,
        lr_scheduler_type: LrSchedulerType::Constant,
        warmup_steps: 0.0,
        weight_decay: 0.0,
        adam_beta1: 0.9,
        adam_beta2: 0.999,
        adam_epsilon: 1e-8,
        max_grad_norm: 0.0,
        per_device_train_batch_size: 2,
        gradient_accumulation_steps: 2,
        num_train_epochs: 1.0,
        max_steps: Some(3),
        per_device_eval_batch_size: 1,
        eval_steps: Some(1),
        shuffle: false,
        data_seed: 0,
        group_by_length: false,
        packing_length: None,
        recompute_layers: Recompute::Layers(recompute_layers),
        offload_activations,
        loss_scaling: None,
        ..TrainConfig::default()
    }
}

/// What a run leaves: losses and norms of its steps and losses of its evaluations; the adapter; bytes on the device, and locked on the host.
struct Outcome {
    numbers: Vec<f64>,
    adapter: PeftAdapter,
    allocated: u64,
    pinned: u64,
}

fn run<O: Ops>(ops: &Arc<O>, base: &Arc<BaseModel<O>>, config: TrainConfig, evaluation: u32) -> Outcome {
    let (train, evaluation) = (examples(&[11, 3, 5, 9, 2, 7, 13, 4]), examples(&[5, evaluation]));
    let before = ops.memory();
    let mut trainer = Trainer::new(ops.clone(), base.clone(), config, train, Some(Box::new(evaluation)), None).unwrap();
    let memory = ops.memory();
    let (allocated, pinned) =
        (memory.allocated_bytes - before.allocated_bytes, memory.pinned_host_bytes - before.pinned_host_bytes);
    let mut numbers = Vec::new();
    loop {
        match trainer.advance().unwrap() {
            Progress::Event(TrainingEvent::Step(step)) => numbers.extend([step.loss, step.grad_norm]),
            Progress::Event(TrainingEvent::Evaluation(result)) => numbers.push(result.loss),
            Progress::Event(TrainingEvent::Finished) => break,
            _ => {}
        }
    }
    let adapter = trainer.adapter().unwrap();
    drop(trainer);
    assert_eq!(ops.memory().pinned_host_bytes, before.pinned_host_bytes, "locked memory is given back");
    Outcome { numbers, adapter, allocated, pinned }
}

/// For models of several depths and any number of recomputed blocks: the same losses, norms and adapters, bit for bit, wherever layer inputs
/// are. Returns, of the deepest model with everything recomputed, the bytes that leave the device and those locked on the host.
pub fn same_with_and_without<O: Ops>(ops: &Arc<O>) -> (i64, u64) {
    let mut moved = (0, 0);
    for blocks in [1, 2, 3, 5, 6] {
        let base =
            BaseModel::load_placed(&**ops, &Repeated::new(blocks), WeightStorage::Stored, EmbeddingPlace::Device);
        let base = Arc::new(base.unwrap());
        for recomputed in 0..=blocks + 1 {
            // Evaluation in the activations of training, or in smaller ones of its own.
            for evaluation in [6, 31] {
                let here = run(ops, &base, config(recomputed, false), evaluation);
                let away = run(ops, &base, config(recomputed, true), evaluation);
                assert_eq!(here.numbers.len(), 3 * 2 + 4);
                assert_eq!(here.numbers, away.numbers, "{recomputed} of {blocks} blocks recomputed");
                assert!(
                    here.adapter == away.adapter,
                    "{recomputed} of {blocks} blocks recomputed: the adapters differ"
                );
                moved = (here.allocated as i64 - away.allocated as i64, away.pinned);
            }
        }
    }
    moved
}

/// The embedding table on the host beside the table on the device: the same losses, norms and adapters, bit for bit.
pub fn same_with_the_table_on_the_host<O: Ops>(ops: &Arc<O>) {
    let outcome = |place| {
        let base = BaseModel::load_placed(&**ops, &Repeated::new(2), WeightStorage::Stored, place).unwrap();
        run(ops, &Arc::new(base), config(0, false), 6)
    };
    let (device, host) = (outcome(EmbeddingPlace::Device), outcome(EmbeddingPlace::Host));
    assert_eq!(device.numbers, host.numbers);
    assert!(device.adapter == host.adapter, "the adapters differ");
}

/// Where a forward pass breaks, its first place is told although later streams have taken the buffers of that one.
pub fn the_first_place_that_is_not_finite_is_found<O: Ops>(ops: &Arc<O>) {
    let base = Arc::new(BaseModel::load(&**ops, &Repeated::new(5), WeightStorage::Stored).unwrap());
    let config = TrainConfig { learning_rate: 1e25, ..config(5, true) };
    let mut trainer = Trainer::new(ops.clone(), base, config, examples(&[11, 3, 5, 9]), None, None).unwrap();
    let error = loop {
        if let Err(error) = trainer.advance() {
            break error;
        }
    };
    assert_eq!(error.code, ErrorCode::NonFiniteLoss);
    assert!(error.message.contains("the output of model.layers.0;"), "{error}");
}
