//! Models of random numbers for the benchmarks.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use luthier_core::config::Variant;
use luthier_core::model::{LINEAR_MODULES, TensorSource};
use luthier_core::random::MersenneTwister;
use luthier_core::{EngineError, HostTensor, ModelConfig, Result as EngineResult, StoredType, TensorBytes};

/// Largest random number of a weight, about that of a model's usual initialisation.
const SPREAD: f32 = 0.03;

type BytesByShape = HashMap<(usize, usize), Arc<[u8]>>;

/// Random weights of a shape and a stored type: all tensors of one shape are the same bytes, so that the host holds few of them.
pub struct RandomModel {
    config: ModelConfig,
    stored: StoredType,
    /// About a million numbers as they are stored, repeated to fill a tensor.
    period: Vec<u8>,
    made: RefCell<BytesByShape>,
}

impl RandomModel {
    pub fn new(config: ModelConfig, stored: StoredType) -> EngineResult<Self> {
        let mut random = MersenneTwister::new(1);
        // Prime numbers, so that windows of them differ from row to row.
        let numbers: Vec<f32> = (0..1_000_003).map(|_| random.uniform_f32(SPREAD)).collect();
        let blocks = 3889 * 256;
        let period = match stored {
            StoredType::F16 => numbers.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
            StoredType::BF16 => numbers.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
            StoredType::Ggml(kind) => in_blocks(&numbers[..blocks], kind)
                .map_err(|error| EngineError::internal(format!("quantizing to {}: {error}", stored.name())))?,
            _ => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        Ok(Self { config, stored, period, made: RefCell::default() })
    }
}

fn in_blocks(numbers: &[f32], kind: GgmlDType) -> candle_core::Result<Vec<u8>> {
    let tensor = Tensor::new(numbers, &Device::Cpu)?;
    Ok(QTensor::quantize(&tensor, kind)?.data()?.into_owned())
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
        let linear = LINEAR_MODULES.into_iter().find(|module| name.contains(module.path()));
        let (rows, columns) = linear.map_or((vocab_size, hidden_size), |module| module.shape(&self.config));
        let mut made = self.made.borrow_mut();
        let len = self.stored.matrix_bytes(rows, columns).ok_or_else(|| {
            EngineError::invalid(format!("rows of {columns} numbers are no whole blocks of {}", self.stored.name()))
        })?;
        let bytes = made.entry((rows, columns)).or_insert_with(|| {
            let mut bytes = self.period.repeat(len.div_ceil(self.period.len()));
            bytes.truncate(len);
            bytes.into()
        });
        let bytes = TensorBytes::Owned(bytes.clone());
        Ok(HostTensor::new(self.stored, vec![rows, columns], bytes))
    }
}

/// The shape of a known model.
pub fn shape(name: &str) -> Option<ModelConfig> {
    let llama = ModelConfig {
        model_type: "llama".to_owned(),
        vocab_size: 64_000,
        hidden_size: 4096,
        intermediate_size: 11_008,
        num_hidden_layers: 32,
        num_attention_heads: 32,
        num_key_value_heads: 32,
        head_dim: 128,
        sliding_window: None,
        max_position_embeddings: 4096,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        tie_word_embeddings: false,
        variant: Variant::default(),
        eos_token_ids: Vec::new(),
        bos_token_id: None,
    };
    match name {
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
