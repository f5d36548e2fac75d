//! What decoding reads: the base model's tensors as stored, and an adapter's matrices, both arranged by layer. Nothing is copied from the base.

use std::sync::Arc;

use crate::config::ModelConfig;
use crate::error::{EngineError, ErrorCode, Result};
use crate::lora::peft::PeftAdapter;
use crate::model::TensorSource;
use crate::tensor::{HostTensor, StoredType};

use super::decode_rows::dequantize_blocks;

/// Linear layers of a block, in the order of their use. The order of [`DecodeLayer::linears`].
pub(crate) const LINEAR_NAMES: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// Index of a linear layer in [`LINEAR_NAMES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Linear {
    Query,
    Key,
    Value,
    Output,
    Gate,
    Up,
    Down,
}

/// One block's tensors.
pub(super) struct DecodeLayer {
    pub input_norm: Vec<f32>,
    pub post_attention_norm: Vec<f32>,
    pub linears: [HostTensor; 7],
}

/// A base model as decoding reads it.
pub struct DecodeModel {
    pub(super) config: ModelConfig,
    pub(super) embedding: HostTensor,
    pub(super) head: HostTensor,
    pub(super) final_norm: Vec<f32>,
    pub(super) layers: Vec<DecodeLayer>,
    /// `rope_theta ^ (-2 i / head_dim)`: the angle of pair i grows by this much from one position to the next.
    pub(super) inverse_frequencies: Vec<f64>,
}

impl DecodeModel {
    /// Takes the tensors from their source; mapped tensors stay mapped.
    pub fn new(source: &dyn TensorSource) -> Result<Self> {
        let config = source.config().clone();
        let vector = |name: &str| -> Result<Vec<f32>> { Ok(dequantized(&source.tensor(name)?)) };
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for layer in 0..config.num_hidden_layers {
            let mut linears = Vec::with_capacity(LINEAR_NAMES.len());
            for name in LINEAR_NAMES {
                linears.push(source.tensor(&format!("model.layers.{layer}.{name}.weight"))?);
            }
            let linears = linears.try_into().map_err(|_| EngineError::internal("a block has seven linear layers"))?;
            layers.push(DecodeLayer {
                input_norm: vector(&format!("model.layers.{layer}.input_layernorm.weight"))?,
                post_attention_norm: vector(&format!("model.layers.{layer}.post_attention_layernorm.weight"))?,
                linears,
            });
        }
        let embedding = source.tensor("model.embed_tokens.weight")?;
        let head = if config.tie_word_embeddings { embedding.clone() } else { source.tensor("lm_head.weight")? };
        let inverse_frequencies = (0..config.head_dim / 2)
            .map(|pair| config.rope_theta.powf(-2.0 * pair as f64 / config.head_dim as f64))
            .collect();
        Ok(Self { final_norm: vector("model.norm.weight")?, embedding, head, layers, inverse_frequencies, config })
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The embedding of a token in f32, into `out [hidden_size]`. `INVALID_ARGUMENT` outside the vocabulary.
    pub(super) fn embed(&self, id: u32, out: &mut [f32]) -> Result<()> {
        if id as usize >= self.config.vocab_size {
            let message = format!("token id {id} is outside the vocabulary of {}", self.config.vocab_size);
            return Err(EngineError::new(ErrorCode::InvalidArgument, message));
        }
        dequantize_row(&self.embedding, id as usize, out);
        Ok(())
    }

    /// Cosines and sines of the rotary angles at a position, each `[head_dim / 2]`.
    pub(super) fn rotary_angles(&self, position: usize, cosines: &mut [f32], sines: &mut [f32]) {
        for ((cos, sin), frequency) in cosines.iter_mut().zip(sines).zip(&self.inverse_frequencies) {
            // In f32, as the reference implementation multiplies position and frequency.
            let angle = position as f32 * *frequency as f32;
            (*cos, *sin) = (angle.cos(), angle.sin());
        }
    }
}

/// A whole tensor in f32.
pub(super) fn dequantized(tensor: &HostTensor) -> Vec<f32> {
    let mut out = vec![0.0; tensor.shape.iter().product()];
    dequantize_bytes(tensor.stored, tensor.bytes.as_slice(), &mut out);
    out
}

/// One row of a matrix in f32.
pub(super) fn dequantize_row(matrix: &HostTensor, row: usize, out: &mut [f32]) {
    let row_bytes = matrix.bytes.as_slice().len() / matrix.shape[0];
    dequantize_bytes(matrix.stored, &matrix.bytes.as_slice()[row * row_bytes..(row + 1) * row_bytes], out);
}

/// Stored bytes to f32.
pub(in crate::ops) fn dequantize_bytes(stored: StoredType, bytes: &[u8], out: &mut [f32]) {
    use candle_core::quantized::GgmlDType;
    let kind = match stored {
        StoredType::F32 => GgmlDType::F32,
        StoredType::F16 => GgmlDType::F16,
        StoredType::BF16 => GgmlDType::BF16,
        StoredType::Ggml(kind) => kind,
    };
    dequantize_blocks(kind, bytes, out);
}

/// A `[r, in_features]` and Bᵀ `[r, out_features]` of one linear layer, row-major f32. B is transposed so that a range of outputs is contiguous.
#[derive(Clone)]
pub struct DecodeLoraPair {
    pub r: usize,
    /// `lora_alpha / r`, or over √r.
    pub scale: f32,
    pub a: Vec<f32>,
    pub b_transposed: Vec<f32>,
}

/// An adapter as decoding reads it: for each layer, a pair for each linear layer that has one.
#[derive(Clone, Default)]
pub struct DecodeAdapter {
    pub layers: Vec<[Option<Arc<DecodeLoraPair>>; 7]>,
}

impl DecodeAdapter {
    /// Arranges an adapter's matrices by layer. Modules that a block does not have are left out; `read_adapter` has refused them.
    pub fn new(config: &ModelConfig, adapter: &PeftAdapter) -> Self {
        let scale = adapter.scale() as f32;
        let pair = |layer: usize, name: &str| {
            let matrices = adapter.modules.get(&format!("model.layers.{layer}.{name}"))?;
            let column = |j: usize| matrices.b.iter().skip(j).step_by(adapter.r).copied();
            let b_transposed = (0..adapter.r).flat_map(column).collect();
            let pair = DecodeLoraPair { r: adapter.r, scale, a: matrices.a.clone(), b_transposed };
            Some(Arc::new(pair))
        };
        let layers = (0..config.num_hidden_layers).map(|layer| LINEAR_NAMES.map(|name| pair(layer, name)));
        Self { layers: layers.collect() }
    }

    pub(super) fn pair(&self, layer: usize, linear: Linear) -> Option<&DecodeLoraPair> {
        self.layers.get(layer)?[linear as usize].as_deref()
    }
}
