//! Mistral: Llama with a sliding window.

use super::common::{Defaults, llama_fields};
use super::{Family, TensorNames};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::load::huggingface::fields::Fields;

pub(super) const FAMILY: Family =
    Family { model_type: "mistral", classes: &["MistralForCausalLM"], config, names: TensorNames::LLAMA };

fn config(fields: &Fields<'_>) -> Result<ModelConfig> {
    let defaults = Defaults { max_position_embeddings: 4096 * 32, num_key_value_heads: Some(8), head_dim: None };
    // transformers takes 4096 where it is absent, and none where it is null.
    let sliding_window = match fields.object.contains_key("sliding_window") {
        true => fields.optional_size("sliding_window")?,
        false => Some(4096),
    };
    Ok(ModelConfig { sliding_window, ..llama_fields(fields, FAMILY.model_type, &defaults)? })
}
