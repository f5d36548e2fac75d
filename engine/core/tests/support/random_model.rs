//! A model of random weights in any type, for tests that ask about sizes.

use luthier_core::config::{ModelConfig, PositionEncoding, Rope, RopePairs, Variant};
use luthier_core::lora::{LoraConfig, LoraTargets};
use luthier_core::model::{IGNORED_LABEL, LINEAR_MODULES, TensorSource, TokenExamples};
use luthier_core::random::MersenneTwister;
use luthier_core::train::{LrSchedulerType, Recompute, TrainConfig};
use luthier_core::{EngineError, HostTensor, Result, StoredType, TensorBytes};

/// A configuration and how its matrices are stored. Those of block-quantized types are all zeros.
pub struct RandomModel {
    pub config: ModelConfig,
    /// Of linear layers.
    pub linear: StoredType,
    /// Of the embedding table and the output layer.
    pub tables: StoredType,
}

/// Sizes of a model: layers, heads, heads of keys, head size, hidden, intermediate, vocabulary.
pub type Shape = [usize; 7];

impl RandomModel {
    pub fn new(shape: Shape, tied: bool, linear: StoredType, tables: StoredType) -> Self {
        let [layers, heads, key_value_heads, head_dim, hidden_size, intermediate_size, vocab_size] = shape;
        let config = ModelConfig {
            model_type: "llama".to_owned(),
            vocab_size,
            hidden_size,
            intermediate_size,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: key_value_heads,
            head_dim,
            sliding_window: None,
            max_position_embeddings: 4096,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            tie_word_embeddings: tied,
            variant: Variant::default(),
            eos_token_ids: vec![0],
            bos_token_id: None,
        };
        Self { config, linear, tables }
    }

    /// With norms of heads, all biases, and a part of each head rotated; or with ALiBi.
    pub fn varied(mut self, alibi: bool) -> Self {
        let rope = Rope { pairs: RopePairs::Interleaved, rotated: Some(self.config.head_dim / 2), ..Rope::default() };
        self.config.variant = Variant {
            position: if alibi { PositionEncoding::Alibi } else { PositionEncoding::Rope(rope) },
            query_key_value_bias: true,
            output_bias: true,
            mlp_bias: true,
            query_key_norm: true,
            ..Variant::default()
        };
        self
    }

    fn shape(&self, name: &str) -> (Vec<usize>, StoredType) {
        let ModelConfig { hidden_size, vocab_size, .. } = self.config;
        if name.starts_with("model.embed_tokens") || name.starts_with("lm_head") {
            return (vec![vocab_size, hidden_size], self.tables);
        }
        if name.contains("_norm") {
            return (vec![self.config.head_dim], StoredType::F32);
        }
        match LINEAR_MODULES.iter().find(|module| name.contains(module.name())) {
            Some(module) if name.ends_with(".bias") => (vec![module.shape(&self.config).0], StoredType::F32),
            Some(module) => {
                let (rows, columns) = module.shape(&self.config);
                (vec![rows, columns], self.linear)
            }
            None => (vec![hidden_size], StoredType::F32),
        }
    }
}

impl TensorSource for RandomModel {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn tensor(&self, name: &str) -> Result<HostTensor> {
        let (shape, stored) = self.shape(name);
        let count: usize = shape.iter().product();
        let mut random = MersenneTwister::new(name.bytes().fold(7, |seed, byte| seed * 31 % 65_521 + u64::from(byte)));
        let numbers = (0..count).map(|_| random.uniform_f32(0.1));
        let bytes: Vec<u8> = match stored {
            StoredType::F32 => numbers.flat_map(f32::to_le_bytes).collect(),
            StoredType::BF16 => numbers.flat_map(|number| half::bf16::from_f32(number).to_le_bytes()).collect(),
            StoredType::F16 => numbers.flat_map(|number| half::f16::from_f32(number).to_le_bytes()).collect(),
            StoredType::Ggml(_) => vec![0; count / stored.block_elements() * stored.block_bytes()],
            other => return Err(EngineError::internal(format!("no file holds {}", other.name()))),
        };
        Ok(HostTensor::new(stored, shape, TensorBytes::Owned(bytes.into())))
    }
}

/// Examples of these lengths whose last `labelled` positions are learned.
pub fn examples(lengths: &[usize], labelled: usize, vocab_size: usize) -> TokenExamples {
    let mut all = TokenExamples { offsets: vec![0], ..TokenExamples::default() };
    for length in lengths {
        for position in 0..*length {
            let id = (all.input_ids.len() * 7919) % vocab_size;
            all.input_ids.push(id as u32);
            all.labels.push(if position + labelled < *length { IGNORED_LABEL } else { id as i32 });
        }
        all.offsets.push(all.input_ids.len() as u32);
    }
    all
}

/// One epoch in micro-batches of `batch`, evaluated in batches of `evaluation_batch`.
pub fn settings(r: usize, batch: usize, evaluation_batch: usize, recompute_layers: Recompute) -> TrainConfig {
    TrainConfig {
        lora: LoraConfig {
            r,
            lora_alpha: 16.0,
            lora_dropout: 0.0,
            targets: LoraTargets::default(),
            use_rslora: false,
            seed: 0,
        },
        learning_rate: 1e-3,
        lr_scheduler_type: LrSchedulerType::Constant,
        warmup_steps: 0.0,
        weight_decay: 0.0,
        adam_beta1: 0.9,
        adam_beta2: 0.999,
        adam_epsilon: 1e-8,
        max_grad_norm: 1.0,
        per_device_train_batch_size: batch,
        gradient_accumulation_steps: 1,
        num_train_epochs: 1.0,
        max_steps: None,
        per_device_eval_batch_size: evaluation_batch,
        eval_steps: None,
        shuffle: true,
        data_seed: 3,
        group_by_length: false,
        packing_length: None,
        recompute_layers,
        offload_activations: false,
        loss_scaling: None,
        ..TrainConfig::default()
    }
}
