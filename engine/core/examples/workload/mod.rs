//! What the benchmarks of training train.

use luthier_core::lora::{LoraConfig, LoraTargets};
use luthier_core::model::{IGNORED_LABEL, TokenExamples};
use luthier_core::random::MersenneTwister;
use luthier_core::train::{LrSchedulerType, Recompute, TrainConfig};

/// Rank of the adapter.
pub const RANK: usize = 8;

/// `steps` steps of one micro-batch of `batch` examples, in their order, on every linear layer.
pub fn config(batch: usize, steps: usize, recompute_layers: Recompute) -> TrainConfig {
    TrainConfig {
        lora: LoraConfig {
            r: RANK,
            lora_alpha: 16.0,
            lora_dropout: 0.0,
            targets: LoraTargets::default(),
            use_rslora: false,
            seed: 0,
        },
        learning_rate: 3e-4,
        lr_scheduler_type: LrSchedulerType::Constant,
        warmup_steps: 0.0,
        weight_decay: 0.01,
        adam_beta1: 0.9,
        adam_beta2: 0.999,
        adam_epsilon: 1e-8,
        max_grad_norm: 1.0,
        per_device_train_batch_size: batch,
        gradient_accumulation_steps: 1,
        num_train_epochs: 1.0,
        max_steps: Some(steps as u64),
        per_device_eval_batch_size: 1,
        eval_steps: None,
        shuffle: false,
        data_seed: 0,
        group_by_length: false,
        packing_length: None,
        recompute_layers,
        offload_activations: false,
        loss_scaling: None,
        ..TrainConfig::default()
    }
}

/// Random ids; the last `share` of each of `batch` examples of `seq` tokens is labelled.
pub fn examples(vocab_size: usize, batch: usize, seq: usize, share: f64) -> TokenExamples {
    let mut random = MersenneTwister::new(0);
    let input_ids: Vec<u32> = (0..batch * seq).map(|_| random.next_u32() % vocab_size as u32).collect();
    let ignored = (seq as f64 * (1.0 - share)).round() as usize;
    let label = |(index, id): (usize, &u32)| if index % seq < ignored { IGNORED_LABEL } else { *id as i32 };
    let labels = input_ids.iter().enumerate().map(label).collect();
    let offsets = (0..=batch).map(|index| (index * seq) as u32).collect();
    TokenExamples { input_ids, labels, offsets }
}
