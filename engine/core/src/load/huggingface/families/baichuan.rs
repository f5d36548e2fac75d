//! Baichuan-7B (Llama with one projection for queries, keys and values), Baichuan-13B (that with ALiBi), and Baichuan2 of both sizes (those with
//! an output layer whose rows have unit length). All of them say `baichuan`.

use super::common::{Defaults, llama_fields};
use super::{Family, TensorNames};
use crate::config::{ModelConfig, PositionEncoding, Variant};
use crate::error::Result;
use crate::load::huggingface::fields::Fields;

pub(super) const FAMILY: Family = Family {
    model_type: "baichuan",
    // The first is Baichuan-7B's, the second that of all others.
    classes: &[ROPE_CLASS, "BaichuanForCausalLM"],
    config,
    names: TensorNames {
        modules: &[("self_attn.W_pack", &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"])],
        ..TensorNames::LLAMA
    },
};

const ROPE_CLASS: &str = "BaiChuanForCausalLM";
/// Widths of the published models with rope and with ALiBi.
const HIDDEN_SIZE_7B: usize = 4096;
const HIDDEN_SIZE_13B: usize = 5120;
/// Vocabulary of Baichuan2.
const VOCABULARY_2: usize = 125_696;

fn config(fields: &Fields<'_>) -> Result<ModelConfig> {
    let context = fields.size_or("model_max_length", 4096)?;
    let defaults = Defaults { max_position_embeddings: context, num_key_value_heads: None, head_dim: None };
    let config = llama_fields(fields, FAMILY.model_type, &defaults)?;
    if let Some(weight) = fields.get("z_loss_weight").filter(|weight| weight.as_f64() != Some(0.0)) {
        return Err(fields.unsupported(format_args!("z_loss_weight {weight} is not supported; supported: 0")));
    }
    let position = if is_alibi(fields, config.hidden_size) { PositionEncoding::Alibi } else { config.variant.position };
    // Only Baichuan2's configurations have a weight of the z-loss.
    let normalized_head = config.vocab_size == VOCABULARY_2 || fields.get("z_loss_weight").is_some();
    Ok(ModelConfig { variant: Variant { position, normalized_head, ..config.variant }, ..config })
}

/// The class of Baichuan-7B has rope. The other class is that of two codes: the width tells the published models apart, and otherwise the field
/// for the context, which is `max_position_embeddings` in the code with rope and `model_max_length` alone in that with ALiBi.
fn is_alibi(fields: &Fields<'_>, hidden_size: usize) -> bool {
    let architectures = fields.get("architectures").and_then(serde_json::Value::as_array);
    let of_rope = architectures.is_some_and(|names| names.iter().any(|name| name == ROPE_CLASS));
    match hidden_size {
        _ if of_rope => false,
        HIDDEN_SIZE_7B => false,
        HIDDEN_SIZE_13B => true,
        _ => fields.get("max_position_embeddings").is_none(),
    }
}
