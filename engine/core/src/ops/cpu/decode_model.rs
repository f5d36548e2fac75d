//! What decoding reads: the base model's tensors in the type they are held in, and an adapter's matrices, both arranged by layer. Nothing is
//! copied from the base but its norms.

use std::sync::Arc;

use super::device::CpuOps;
use crate::config::ModelConfig;
use crate::error::{EngineError, ErrorCode, Result};
use crate::lora::peft::PeftAdapter;
use crate::model::{BaseModel, LINEAR_MODULES, LinearModule};
use crate::quant::dequantize_rows;
use crate::tensor::HostTensor;

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
    /// Reads the very weights of a base model: no element is copied but those of norms.
    pub fn new(base: &BaseModel<CpuOps<f32>>) -> Self {
        let config = base.config.clone();
        let layers = base.layers.iter().map(|layer| DecodeLayer {
            input_norm: layer.input_norm.as_slice().to_vec(),
            post_attention_norm: layer.post_attention_norm.as_slice().to_vec(),
            linears: LINEAR_MODULES.map(|module| layer.linear(module).weight.tensor().clone()),
        });
        let inverse_frequencies = (0..config.head_dim / 2)
            .map(|pair| config.rope_theta.powf(-2.0 * pair as f64 / config.head_dim as f64))
            .collect();
        Self {
            layers: layers.collect(),
            embedding: base.embed_tokens.tensor().clone(),
            head: base.output_weight().tensor().clone(),
            final_norm: base.norm.as_slice().to_vec(),
            inverse_frequencies,
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

    /// Cosines and sines of the rotary angles at a position, each `[head_dim / 2]`.
    pub(super) fn rotary_angles(&self, position: usize, cosines: &mut [f32], sines: &mut [f32]) {
        for ((cos, sin), frequency) in cosines.iter_mut().zip(sines).zip(&self.inverse_frequencies) {
            // In f32, as the reference implementation multiplies position and frequency.
            let angle = position as f32 * *frequency as f32;
            (*cos, *sin) = (angle.cos(), angle.sin());
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
