//! What decoding reads: the base model's tensors in the type they are held in, and an adapter's matrices, both arranged by layer. Nothing is
//! copied from the base but its norms.

use std::sync::Arc;

use super::decode_math::{rms_norm, rotate, rotate_interleaved};
use super::device::CpuOps;
use crate::config::{ModelConfig, RopePairs};
use crate::error::{EngineError, ErrorCode, Result};
use crate::lora::peft::PeftAdapter;
use crate::model::{BaseModel, LINEAR_MODULES, LinearModule, rope_frequencies};
use crate::quant::dequantize_rows;
use crate::tensor::HostTensor;

/// One block's tensors.
pub(super) struct DecodeLayer {
    pub input_norm: Vec<f32>,
    pub post_attention_norm: Vec<f32>,
    pub linears: [HostTensor; 7],
    /// Of the linear layers that have one.
    pub biases: [Option<Vec<f32>>; 7],
    /// `[head_dim]` each: of each head of queries, and of keys.
    pub head_norms: Option<[Vec<f32>; 2]>,
}

/// A base model as decoding reads it.
pub struct DecodeModel {
    pub(super) config: ModelConfig,
    pub(super) embedding: HostTensor,
    pub(super) head: HostTensor,
    pub(super) final_norm: Vec<f32>,
    pub(super) layers: Vec<DecodeLayer>,
    /// Of rope: the angle of pair i grows by this much from one position to the next.
    pub(super) frequencies: Vec<f32>,
}

impl DecodeModel {
    /// Reads the very weights of a base model: no element is copied but those of norms.
    pub fn new(base: &BaseModel<CpuOps<f32>>) -> Self {
        let config = base.config.clone();
        let layers = base.layers.iter().map(|layer| DecodeLayer {
            input_norm: layer.input_norm.as_slice().to_vec(),
            post_attention_norm: layer.post_attention_norm.as_slice().to_vec(),
            linears: LINEAR_MODULES.map(|module| layer.linear(module).weight.tensor().clone()),
            biases: LINEAR_MODULES
                .map(|module| layer.linear(module).bias.as_ref().map(|bias| bias.as_slice().to_vec())),
            head_norms: layer.head_norms.as_ref().map(|norms| norms.each_ref().map(|norm| norm.as_slice().to_vec())),
        });
        Self {
            layers: layers.collect(),
            embedding: base.embed_tokens.tensor().clone(),
            head: base.output_weight().tensor().clone(),
            final_norm: base.norm.as_slice().to_vec(),
            frequencies: rope_frequencies(&config, true).into_iter().map(|frequency| frequency as f32).collect(),
            config,
        }
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
        dequantize_rows(&self.embedding, id as usize, out);
        Ok(())
    }

    /// Cosines and sines of the rotary angles at a position, each with one for each of the frequencies.
    pub(super) fn rotary_angles(&self, position: usize, cosines: &mut [f32], sines: &mut [f32]) {
        for ((cos, sin), frequency) in cosines.iter_mut().zip(sines).zip(&self.frequencies) {
            // In f32, as the reference implementation multiplies position and frequency.
            let angle = position as f32 * frequency;
            (*cos, *sin) = (angle.cos(), angle.sin());
        }
    }
}

impl DecodeLayer {
    /// Norm, where the block has one, and rope of each head of one token's queries or keys (`which` 0 or 1).
    pub(super) fn turn_heads(
        &self,
        config: &ModelConfig,
        which: usize,
        heads: &mut [f32],
        [cosines, sines]: [&[f32]; 2],
        normed: &mut Vec<f32>,
    ) {
        normed.resize(config.head_dim, 0.0);
        let pairs = config.rope_shape(1).map(|shape| shape.pairs);
        for head in heads.chunks_exact_mut(config.head_dim) {
            if let Some(norms) = &self.head_norms {
                rms_norm(head, &norms[which], config.rms_norm_eps as f32, normed);
                head.copy_from_slice(normed);
            }
            match pairs {
                Some(RopePairs::Halves) => rotate(head, cosines, sines),
                Some(RopePairs::Interleaved) => rotate_interleaved(head, cosines, sines),
                None => {}
            }
        }
    }
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
        let pair = |layer: usize, name: &str| {
            let matrices = adapter.modules.get(&format!("model.layers.{layer}.{name}"))?;
            let (r, scale) = (matrices.r, matrices.scale as f32);
            let column = |j: usize| matrices.b.iter().skip(j).step_by(r).copied();
            let b_transposed = (0..r).flat_map(column).collect();
            let pair = DecodeLoraPair { r, scale, a: matrices.a.clone(), b_transposed };
            Some(Arc::new(pair))
        };
        let layers = (0..config.num_hidden_layers).map(|layer| LINEAR_MODULES.map(|module| pair(layer, module.path())));
        Self { layers: layers.collect() }
    }

    pub(super) fn pair(&self, layer: usize, linear: LinearModule) -> Option<&DecodeLoraPair> {
        self.layers.get(layer)?[linear as usize].as_deref()
    }
}
