//! What most families' configurations have in common: Llama's fields.

use crate::config::{ModelConfig, PositionEncoding, Rope, RopeScaling, Variant};
use crate::error::Result;
use crate::load::huggingface::bitsandbytes::check_method;
use crate::load::huggingface::fields::Fields;

/// Defaults where families differ in them.
pub(super) struct Defaults {
    pub max_position_embeddings: usize,
    pub num_key_value_heads: Option<usize>,
    pub head_dim: Option<usize>,
}

/// Reads Llama's fields; absent ones have the defaults of transformers' `LlamaConfig`, or those given. Neither biases nor a sliding window, which
/// families read themselves.
pub(super) fn llama_fields(fields: &Fields<'_>, model_type: &str, defaults: &Defaults) -> Result<ModelConfig> {
    refuse_unsupported(fields)?;
    let hidden_size = fields.size("hidden_size")?;
    let num_attention_heads = fields.size("num_attention_heads")?;
    let head_dim = match fields.optional_size("head_dim")?.or(defaults.head_dim) {
        Some(head_dim) => head_dim,
        None => shared_evenly(fields, "hidden_size", hidden_size, num_attention_heads)?,
    };
    let num_key_value_heads = defaults.num_key_value_heads.unwrap_or(num_attention_heads);
    let scaling = rope_scaling(fields)?;
    Ok(ModelConfig {
        model_type: model_type.to_owned(),
        vocab_size: fields.size("vocab_size")?,
        hidden_size,
        intermediate_size: fields.size("intermediate_size")?,
        num_hidden_layers: fields.size("num_hidden_layers")?,
        num_attention_heads,
        num_key_value_heads: fields.size_or("num_key_value_heads", num_key_value_heads)?,
        head_dim,
        sliding_window: None,
        max_position_embeddings: fields.size_or("max_position_embeddings", defaults.max_position_embeddings)?,
        rms_norm_eps: fields.number("rms_norm_eps", 1e-6)?,
        rope_theta: rope_theta(fields)?,
        tie_word_embeddings: fields.flag("tie_word_embeddings", false)?,
        variant: Variant {
            position: PositionEncoding::Rope(Rope { scaling, ..Rope::default() }),
            ..Variant::default()
        },
        eos_token_ids: Vec::new(),
        bos_token_id: None,
    })
}

/// A head's share of a width.
pub(super) fn shared_evenly(fields: &Fields<'_>, name: &str, width: usize, heads: usize) -> Result<usize> {
    match width.checked_div(heads).filter(|share| share * heads == width) {
        Some(share) => Ok(share),
        None => Err(fields.corrupt(format_args!("{name} {width} is not a multiple of num_attention_heads {heads}"))),
    }
}

/// transformers 5 writes the base into `rope_parameters`, earlier versions beside it.
fn rope_theta(fields: &Fields<'_>) -> Result<f64> {
    match fields.inner("rope_parameters").filter(|rope| rope.get("rope_theta").is_some()) {
        Some(rope) => rope.number("rope_theta", 10_000.0),
        None => fields.number("rope_theta", 10_000.0),
    }
}

/// From `rope_scaling`, or `rope_parameters` of transformers 5.
fn rope_scaling(fields: &Fields<'_>) -> Result<RopeScaling> {
    let mut scaling = RopeScaling::None;
    for name in ["rope_scaling", "rope_parameters"] {
        let Some(rope) = fields.inner(name) else { continue };
        let needed = |key: &str| match rope.number(key, f64::NAN)? {
            value if value.is_finite() && value > 0.0 => Ok(value),
            _ => Err(fields.corrupt(format_args!("`{name}` needs `{key}`, a number above 0"))),
        };
        refuse_partial_rope(&rope)?;
        match rope.text("rope_type").or_else(|| rope.text("type")).unwrap_or("default") {
            "default" => {}
            "linear" => scaling = RopeScaling::Linear { factor: needed("factor")? },
            "llama3" => {
                let [low_freq_factor, high_freq_factor] = [needed("low_freq_factor")?, needed("high_freq_factor")?];
                if low_freq_factor >= high_freq_factor {
                    return Err(fields.corrupt(format_args!(
                        "`{name}`: low_freq_factor {low_freq_factor} is not below high_freq_factor {high_freq_factor}"
                    )));
                }
                scaling = RopeScaling::Llama3 {
                    factor: needed("factor")?,
                    low_freq_factor,
                    high_freq_factor,
                    original_context: needed("original_max_position_embeddings")?,
                };
            }
            kind => {
                return Err(fields.unsupported(format_args!(
                    "{name} of type `{kind}` is not supported; supported: default, linear, llama3"
                )));
            }
        }
    }
    Ok(scaling)
}

fn refuse_partial_rope(fields: &Fields<'_>) -> Result<()> {
    match fields.get("partial_rotary_factor").filter(|factor| factor.as_f64() != Some(1.0)) {
        Some(factor) => {
            Err(fields.unsupported(format_args!("partial_rotary_factor {factor} is not supported; supported: 1")))
        }
        None => Ok(()),
    }
}

fn refuse_unsupported(fields: &Fields<'_>) -> Result<()> {
    if let Some(activation) = fields.get("hidden_act").filter(|activation| *activation != "silu") {
        return Err(fields.unsupported(format_args!("hidden_act {activation} is not supported; supported: \"silu\"")));
    }
    refuse_partial_rope(fields)?;
    refuse_quantized(fields)
}

/// Checkpoints of a quantization that is not read.
pub(super) fn refuse_quantized(fields: &Fields<'_>) -> Result<()> {
    let Some(quantization) = fields.get("quantization_config") else { return Ok(()) };
    check_method(quantization).map_err(|what| fields.unsupported(what))
}

/// Sliding windows of Qwen, which only some of the layers have.
pub(super) fn refuse_windows_of_some_layers(fields: &Fields<'_>, layers: usize) -> Result<()> {
    let sliding = fields.flag("use_sliding_window", false)?;
    // Layers from this one on have the window.
    let first = fields.size_or("max_window_layers", 28)?;
    if sliding && fields.get("sliding_window").is_some() && first < layers {
        return Err(fields.unsupported(format_args!(
            "use_sliding_window is not supported: layers {first} to {} would have a window, the others not",
            layers - 1
        )));
    }
    Ok(())
}
