//! A model's configuration from a GGUF file's metadata, and what the names of its tensors tell.

use std::sync::Arc;

use super::architectures::{ARCHITECTURES, Architecture};
use super::header::GgufHeader;
use super::tokenizer::token_id;
use crate::config::{ModelConfig, PositionEncoding, Rope, RopePairs, RopeScaling, Variant};
use crate::error::Result;
use crate::tensor::StoredType;

/// What rope's frequencies are divided by, one number each.
pub(crate) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The keys of one architecture.
struct Keys<'a> {
    header: &'a GgufHeader,
    prefix: &'static str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    fn optional(&self, name: &str) -> Result<Option<usize>> {
        Ok(self.header.unsigned(&self.key(name))?.map(|value| value as usize))
    }

    fn size(&self, name: &str) -> Result<usize> {
        let missing = || self.header.corrupt(format_args!("metadata key `{}` is missing", self.key(name)));
        self.optional(name)?.ok_or_else(missing)
    }

    fn float(&self, name: &str) -> Result<Option<f64>> {
        self.header.float(&self.key(name))
    }
}

/// Reads the architecture and the configuration. What the decoder does not compute is refused by name.
pub(super) fn read_config(header: &GgufHeader) -> Result<(&'static Architecture, ModelConfig)> {
    let found = header
        .string("general.architecture")?
        .ok_or_else(|| header.corrupt("metadata key `general.architecture` is missing"))?;
    let architecture = ARCHITECTURES.iter().find(|known| known.name == found).ok_or_else(|| {
        let supported = ARCHITECTURES.each_ref().map(|known| known.name).join(", ");
        header.unsupported(format_args!("architecture `{found}` is not supported; supported: {supported}"))
    })?;
    let keys = Keys { header, prefix: architecture.name };
    if let Some(experts) = keys.optional("expert_count")?.filter(|experts| *experts > 0) {
        return Err(header.unsupported(format_args!("a mixture of {experts} experts is not supported")));
    }
    let embedding = header
        .tensors
        .get("token_embd.weight")
        .filter(|tensor| tensor.shape.len() == 2)
        .ok_or_else(|| header.corrupt("the matrix `token_embd.weight` is missing"))?;
    let vocab_size = embedding.shape[0];
    if let Some(stated) = keys.optional("vocab_size")?.filter(|stated| *stated != vocab_size) {
        let key = keys.key("vocab_size");
        return Err(header.corrupt(format_args!("{key} is {stated}, token_embd.weight has {vocab_size} rows")));
    }
    let (hidden_size, num_attention_heads) = (keys.size("embedding_length")?, keys.size("attention.head_count")?);
    let head_dim = head_dim(&keys, hidden_size, num_attention_heads)?;
    let num_hidden_layers = keys.size("block_count")?;
    let position = match architecture.alibi_blocks == Some(num_hidden_layers) {
        true => PositionEncoding::Alibi,
        false => PositionEncoding::Rope(rope(&keys, architecture, head_dim)?),
    };
    let epsilon = "attention.layer_norm_rms_epsilon";
    let missing = || header.corrupt(format_args!("metadata key `{}` is missing", keys.key(epsilon)));
    let has_bias = |module: &str| {
        let own = architecture.names.of_module(&format!("model.layers.0.{module}")).0;
        header.tensors.contains_key(&format!("{own}.bias"))
    };
    let mut eos_token_ids = Vec::new();
    for name in ["eos", "eot"] {
        eos_token_ids.extend(token_id(header, name, vocab_size)?.filter(|id| !eos_token_ids.contains(id)));
    }
    let config = ModelConfig {
        model_type: architecture.name.to_owned(),
        vocab_size,
        hidden_size,
        intermediate_size: keys.size("feed_forward_length")?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: keys.optional("attention.head_count_kv")?.unwrap_or(num_attention_heads),
        head_dim,
        // 0 is llama.cpp's word for none.
        sliding_window: keys.optional("attention.sliding_window")?.filter(|window| *window > 0),
        max_position_embeddings: keys.size("context_length")?,
        rms_norm_eps: keys.float(epsilon)?.ok_or_else(missing)?,
        rope_theta: keys.float("rope.freq_base")?.unwrap_or(10_000.0),
        tie_word_embeddings: !header.tensors.contains_key("output.weight"),
        variant: Variant {
            position,
            query_key_value_bias: has_bias("self_attn.q_proj"),
            output_bias: has_bias("self_attn.o_proj"),
            mlp_bias: has_bias("mlp.gate_proj"),
            query_key_norm: architecture.query_key_norm,
            // llama.cpp multiplies the rows as they are.
            normalized_head: false,
        },
        eos_token_ids,
        bos_token_id: token_id(header, "bos", vocab_size)?,
    };
    Ok((architecture, config))
}

fn head_dim(keys: &Keys<'_>, hidden_size: usize, heads: usize) -> Result<usize> {
    let head_dim = match keys.optional("attention.key_length")? {
        Some(head_dim) => head_dim,
        None if heads > 0 && hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            let [width, count] = ["embedding_length", "attention.head_count"].map(|name| keys.key(name));
            let what = format_args!("{width} {hidden_size} is not a multiple of {count} {heads}");
            return Err(keys.header.corrupt(what));
        }
    };
    match keys.optional("attention.value_length")?.filter(|other| *other != head_dim) {
        Some(other) => Err(keys.header.unsupported(format_args!(
            "{} is {other}; only the head size {head_dim} is supported",
            keys.key("attention.value_length")
        ))),
        None => Ok(head_dim),
    }
}

fn rope(keys: &Keys<'_>, architecture: &Architecture, head_dim: usize) -> Result<Rope> {
    let rotated = keys.optional("rope.dimension_count")?.filter(|rotated| *rotated != head_dim);
    if let Some(rotated) = rotated.filter(|_| !architecture.interleaved) {
        let key = keys.key("rope.dimension_count");
        let what = format_args!("{key} is {rotated}; only the head size {head_dim} is supported");
        return Err(keys.header.unsupported(what));
    }
    let pairs = if architecture.interleaved { RopePairs::Interleaved } else { RopePairs::Halves };
    let linear = linear_factor(keys)?;
    let scaling = match (factors(keys.header, rotated.unwrap_or(head_dim))?, linear) {
        (None, None) => RopeScaling::None,
        (None, Some(factor)) => RopeScaling::Linear { factor },
        (Some(factors), None) => RopeScaling::Factors(factors),
        (Some(_), Some(factor)) => {
            let what = format_args!("linear rope scaling by {factor} beside `{ROPE_FACTORS}` is not supported");
            return Err(keys.header.unsupported(what));
        }
    };
    Ok(Rope { pairs, rotated, scaling })
}

/// What all frequencies are divided by, if they are.
fn linear_factor(keys: &Keys<'_>) -> Result<Option<f64>> {
    let factor = match keys.header.string(&keys.key("rope.scaling.type"))?.as_deref() {
        // Files before there was a type.
        None => keys.float("rope.scale_linear")?.unwrap_or(1.0),
        Some("none") => 1.0,
        Some("linear") => keys.float("rope.scaling.factor")?.unwrap_or(1.0),
        Some(other) => {
            let what = format_args!("rope scaling `{other}` is not supported; supported: none, linear");
            return Err(keys.header.unsupported(what));
        }
    };
    match factor {
        1.0 => Ok(None),
        factor if factor.is_finite() && factor > 0.0 => Ok(Some(factor)),
        _ => Err(keys.header.corrupt(format_args!("rope is scaled by {factor}; expected a number above 0"))),
    }
}

/// Llama 3's scaling, worked out by the converter.
fn factors(header: &GgufHeader, rotated: usize) -> Result<Option<Arc<[f32]>>> {
    let Some(tensor) = header.tensors.get(ROPE_FACTORS) else { return Ok(None) };
    let bytes = &header.file.map[tensor.window.clone()];
    let factors: Arc<[f32]> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    if tensor.stored != StoredType::F32 || tensor.shape != [rotated / 2] {
        let (stored, shape) = (tensor.stored.name(), &tensor.shape);
        let what = format_args!("`{ROPE_FACTORS}` is {stored} {shape:?}; expected f32 [{}]", rotated / 2);
        return Err(header.corrupt(what));
    }
    match factors.iter().find(|factor| !(factor.is_finite() && **factor > 0.0)) {
        Some(factor) => Err(header.corrupt(format_args!("`{ROPE_FACTORS}` holds {factor}; expected numbers above 0"))),
        None => Ok(Some(factors)),
    }
}
