//! Qwen2 and Qwen2.5: Llama with biases of queries, keys and values.

use super::common::{Defaults, llama_fields, refuse_windows_of_some_layers};
use super::{Family, TensorNames};
use crate::config::{ModelConfig, Variant};
use crate::error::Result;
use crate::load::huggingface::fields::Fields;

pub(super) const FAMILY: Family =
    Family { model_type: "qwen2", classes: &["Qwen2ForCausalLM"], config, names: TensorNames::LLAMA };

fn config(fields: &Fields<'_>) -> Result<ModelConfig> {
    let defaults = Defaults { max_position_embeddings: 32_768, num_key_value_heads: Some(32), head_dim: None };
    let config = llama_fields(fields, FAMILY.model_type, &defaults)?;
    refuse_windows_of_some_layers(fields, config.num_hidden_layers)?;
    Ok(ModelConfig { variant: Variant { query_key_value_bias: true, ..config.variant }, ..config })
}
