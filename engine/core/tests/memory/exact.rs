//! The plan's bytes are those that a run has allocated at its peak, to the byte.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use luthier_core::lora::{LoraTargets, ModuleNames};
use luthier_core::model::{BaseModel, Examples, TokenExamples};
use luthier_core::ops::Ops;
use luthier_core::ops::cpu::CpuOps;
use luthier_core::random::MersenneTwister;
use luthier_core::train::{Optim, Progress, Recompute, TrainConfig, Trainer};
use luthier_core::{StoredType, WeightStorage};

use crate::random_model::{RandomModel, examples, settings};

/// Trains to the end on a device of its own and compares.
fn check(
    model: &RandomModel,
    storage: WeightStorage,
    config: TrainConfig,
    train: TokenExamples,
    evaluation: Option<TokenExamples>,
) {
    let ops = Arc::new(CpuOps::<f32>::new(1));
    let base = Arc::new(BaseModel::load(&*ops, model, storage).unwrap());
    let weights = ops.memory().allocated_bytes;
    let what = format!("{:?} as {}, {config:?}", model.config, storage.name());
    let evaluation = evaluation.map(|found| Box::new(found) as Box<dyn Examples>);
    let mut trainer = Trainer::new(ops.clone(), base, config, train, evaluation, None).unwrap();
    let memory = trainer.estimate().memory.clone();
    while trainer.advance().unwrap() != Progress::Finished {}
    assert_eq!(memory.plan.weight_bytes, weights, "{what}");
    assert_eq!(memory.held_bytes, weights, "{what}");
    assert_eq!(memory.plan.total_bytes(), ops.memory().peak_allocated_bytes, "{what}");
    assert_eq!(memory.plan.pinned_host_bytes, 0, "{what}");
}

#[test]
fn a_run_takes_what_was_planned() {
    let mut random = MersenneTwister::new(11);
    let mut below = |count: usize| random.next_u32() as usize % count;
    for round in 0..60 {
        let (layers, key_value_heads, vocab_size) = (1 + below(6), 1 + below(2), 64 + 32 * below(3));
        let heads = key_value_heads * (1 + below(2));
        let stored = [StoredType::F32, StoredType::BF16, StoredType::F16, StoredType::Ggml(GgmlDType::Q8_0)];
        let shape = [layers, heads, key_value_heads, 32, 32 * (1 + below(2)), 32 * (1 + below(3)), vocab_size];
        let model = RandomModel::new(shape, below(2) == 0, stored[below(4)], stored[below(3)]);
        let model = match round % 5 {
            0 => model.varied(false),
            1 => model.varied(true),
            _ => model,
        };
        let storage = WeightStorage::ALL[round % WeightStorage::ALL.len()];
        let recompute = match below(6) {
            0 => Recompute::Auto,
            1 => Recompute::All,
            _ => Recompute::Layers(below(layers + 3)),
        };
        let mut lengths = |most: usize| (0..1 + below(5)).map(|_| 2 + below(most)).collect::<Vec<usize>>();
        let (train, evaluation) = (lengths(20), [lengths(10), lengths(60)]);
        let evaluation = match below(3) {
            0 => None,
            kind => Some(examples(&evaluation[kind - 1], 1 + below(9), vocab_size)),
        };
        let mut config = settings(1 + below(4), 1 + below(3), 1 + below(3), recompute);
        config.offload_activations = below(2) == 0;
        // Batches of one, whose largest is known to the token in every epoch.
        if config.per_device_train_batch_size == 1 {
            config.packing_length = [None, Some(22), Some(50)][below(3)];
        }
        config.lora.lora_dropout = [0.0, 0.1][below(2)];
        config.optim = [Optim::AdamW, Optim::AdamW8bit][below(2)];
        config.loraplus_lr_ratio = [1.0, 4.0][below(2)];
        if below(3) == 0 {
            // Matrices large enough for moments in 8 bits.
            config.lora.r = 130;
        }
        let last = format!("model.layers.{}.self_attn.v_proj", layers - 1);
        config.lora.targets = match below(4) {
            0 => LoraTargets::named([last.as_str()]),
            1 => LoraTargets::named(["down_proj", &last]),
            _ => LoraTargets::default(),
        };
        // Ranks that differ between layers that share an input.
        if below(3) == 0 {
            config.lora.targets.rank_pattern = BTreeMap::from([("[a-z]*v_proj".to_owned(), 1 + below(6))]);
            if !matches!(config.lora.targets.target_modules, ModuleNames::Names(_)) {
                config.lora.targets.rank_pattern.insert("up_proj".to_owned(), 1 + below(6));
            }
        }
        check(&model, storage, config, examples(&train, 1 + below(9), vocab_size), evaluation);
    }
}

/// The head and dequantized weights in pieces: more logits than are held at once, a table of more numbers than are dequantized at once.
#[test]
fn pieces_are_priced_as_pieces() {
    let vocab_size = 1 << 20;
    let model = RandomModel::new([1, 1, 1, 8, 8, 8, vocab_size], true, StoredType::F32, StoredType::BF16);
    let train = examples(&[40], 39, vocab_size);
    check(&model, WeightStorage::Stored, settings(1, 1, 1, Recompute::Auto), train, None);
}
