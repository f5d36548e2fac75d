//! Llama 1 to 3, and what has its class: Yi, SmolLM2.

use super::common::{Defaults, llama_fields};
use super::{Family, TensorNames};
use crate::config::{ModelConfig, Variant};
use crate::error::Result;
use crate::load::huggingface::fields::Fields;

pub(super) const FAMILY: Family =
    Family { model_type: "llama", classes: &["LlamaForCausalLM"], config, names: TensorNames::LLAMA };

fn config(fields: &Fields<'_>) -> Result<ModelConfig> {
    let defaults = Defaults { max_position_embeddings: 2048, num_key_value_heads: None, head_dim: None };
    let config = llama_fields(fields, FAMILY.model_type, &defaults)?;
    let attention_bias = fields.flag("attention_bias", false)?;
    let variant = Variant {
        query_key_value_bias: attention_bias,
        output_bias: attention_bias,
        mlp_bias: fields.flag("mlp_bias", false)?,
        ..config.variant
    };
    Ok(ModelConfig { variant, ..config })
}
