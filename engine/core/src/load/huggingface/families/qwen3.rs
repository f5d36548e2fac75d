//! Qwen3: Llama with heads of a size of their own, whose queries and keys are normed before rope.

use super::common::{Defaults, llama_fields, refuse_windows_of_some_layers};
use super::{Family, TensorNames};
use crate::config::{ModelConfig, Variant};
use crate::error::Result;
use crate::load::huggingface::fields::Fields;

pub(super) const FAMILY: Family =
    Family { model_type: "qwen3", classes: &["Qwen3ForCausalLM"], config, names: TensorNames::LLAMA };

fn config(fields: &Fields<'_>) -> Result<ModelConfig> {
    let defaults = Defaults { max_position_embeddings: 32_768, num_key_value_heads: Some(32), head_dim: Some(128) };
    let config = llama_fields(fields, FAMILY.model_type, &defaults)?;
    refuse_windows_of_some_layers(fields, config.num_hidden_layers)?;
    let attention_bias = fields.flag("attention_bias", false)?;
    let variant = Variant {
        query_key_value_bias: attention_bias,
        output_bias: attention_bias,
        query_key_norm: true,
        ..config.variant
    };
    Ok(ModelConfig { variant, ..config })
}
