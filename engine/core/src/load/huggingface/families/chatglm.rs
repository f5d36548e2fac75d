//! ChatGLM2 and ChatGLM3: rope of the first half of each head on neighbouring numbers, one projection for queries, keys and values with biases,
//! one for gate and up. The first ChatGLM-6B says `chatglm` as well and is another architecture.

use super::common::{refuse_quantized, shared_evenly};
use super::{Family, TensorNames};
use crate::config::{ModelConfig, PositionEncoding, Rope, RopePairs, RopeScaling, Variant};
use crate::error::Result;
use crate::load::huggingface::fields::Fields;

pub(super) const FAMILY: Family = Family {
    model_type: "chatglm",
    classes: &["ChatGLMModel", "ChatGLMForConditionalGeneration"],
    config,
    names: TensorNames {
        outside: [
            "transformer.embedding.word_embeddings",
            "transformer.encoder.final_layernorm",
            "transformer.output_layer",
        ],
        layers: "transformer.encoder.layers",
        modules: &[
            ("self_attention.query_key_value", &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
            ("self_attention.dense", &["self_attn.o_proj"]),
            ("mlp.dense_h_to_4h", &["mlp.gate_proj", "mlp.up_proj"]),
            ("mlp.dense_4h_to_h", &["mlp.down_proj"]),
        ],
    },
};

/// Flags that must have these values, which are those of the published models; the third is the default of `ChatGLMConfig`.
const FLAGS: [(&str, bool, bool); 5] = [
    ("rmsnorm", true, true),
    ("post_layer_norm", true, true),
    ("apply_residual_connection_post_layernorm", false, false),
    ("add_bias_linear", false, false),
    ("multi_query_attention", true, false),
];

fn config(fields: &Fields<'_>) -> Result<ModelConfig> {
    refuse_other_architectures(fields)?;
    refuse_quantized(fields)?;
    let hidden_size = fields.size("hidden_size")?;
    let num_attention_heads = fields.size("num_attention_heads")?;
    let head_dim = match fields.optional_size("kv_channels")? {
        Some(head_dim) => head_dim,
        None => shared_evenly(fields, "hidden_size", hidden_size, num_attention_heads)?,
    };
    let (rope_theta, scaling) = rope(fields)?;
    let rope = Rope { pairs: RopePairs::Interleaved, rotated: Some(head_dim / 2), scaling };
    Ok(ModelConfig {
        model_type: FAMILY.model_type.to_owned(),
        vocab_size: fields.size("padded_vocab_size")?,
        hidden_size,
        intermediate_size: fields.size("ffn_hidden_size")?,
        num_hidden_layers: fields.size("num_layers")?,
        num_attention_heads,
        num_key_value_heads: fields.size("multi_query_group_num")?,
        head_dim,
        sliding_window: None,
        max_position_embeddings: fields.size_or("seq_length", 2048)?,
        rms_norm_eps: fields.number("layernorm_epsilon", 1e-5)?,
        rope_theta,
        tie_word_embeddings: fields.flag("tie_word_embeddings", false)?,
        variant: Variant {
            position: PositionEncoding::Rope(rope),
            query_key_value_bias: fields.flag("add_qkv_bias", false)?,
            ..Variant::default()
        },
        eos_token_ids: Vec::new(),
        bos_token_id: None,
    })
}

/// Base and scaling. `rope_ratio` divides positions in ChatGLM2's code and multiplies the base in that of its successors; only the name that a
/// folder keeps tells them apart.
fn rope(fields: &Fields<'_>) -> Result<(f64, RopeScaling)> {
    const BASE: f64 = 10_000.0;
    let ratio = fields.number("rope_ratio", 1.0)?;
    if ratio == 1.0 {
        return Ok((BASE, RopeScaling::None));
    }
    if !(ratio.is_finite() && ratio > 0.0) {
        return Err(fields.corrupt(format_args!("`rope_ratio` is {ratio}; expected a number above 0")));
    }
    let name = fields.text("_name_or_path").unwrap_or_default().to_ascii_lowercase();
    match (name.contains("chatglm2"), name.contains("chatglm3") || name.contains("glm-4")) {
        (true, false) => Ok((BASE, RopeScaling::Linear { factor: ratio })),
        (false, true) => Ok((BASE * ratio, RopeScaling::None)),
        _ => Err(fields.unsupported(format_args!(
            "rope_ratio is {ratio}, which ChatGLM2 and ChatGLM3 read differently; say which it is: `_name_or_path` is `{name}`, expected one with chatglm2, chatglm3 or glm-4 in it"
        ))),
    }
}

fn refuse_other_architectures(fields: &Fields<'_>) -> Result<()> {
    if fields.get("position_encoding_2d").is_some() || fields.get("inner_hidden_size").is_some() {
        return Err(fields.unsupported(
            "this is the first ChatGLM-6B, which is not supported: its attention sees the prompt in both directions, its positions have two dimensions, and its blocks are others; use ChatGLM2-6B or ChatGLM3-6B",
        ));
    }
    for (name, supported, default) in FLAGS {
        if fields.flag(name, default)? != supported {
            return Err(
                fields.unsupported(format_args!("{name} = {} is not supported; supported: {supported}", !supported))
            );
        }
    }
    for name in ["quantization_bit", "pre_seq_len"] {
        if let Some(value) = fields.get(name).filter(|value| value.as_u64() != Some(0)) {
            return Err(
                fields.unsupported(format_args!("{name} = {value} is not supported; use 16-bit files without it"))
            );
        }
    }
    Ok(())
}
