//! What a GGUF file says of a model that lies in a Hugging Face folder: llama.cpp's keys for its sizes and for its tokenizer.
//!
//! Source: the keys of llama.cpp's gguf-py (`constants.py`), written as its `convert_hf_to_gguf.py` writes them.

mod byte_level;
mod sentencepiece;
mod settings;
mod vocabulary;

use std::path::Path;

use super::gguf::Contents;
use super::tensor::MergedTensors;
use super::written::written;
use crate::config::{ModelConfig, PositionEncoding, Rope, RopeScaling, Variant};
use crate::error::{EngineError, ErrorCode, Result};
use crate::load::gguf::{Architecture, MetadataValue};
use crate::model::rope_frequencies;
use settings::Settings;

/// The contents of the file.
///
/// Errors: `MODEL_UNSUPPORTED` for what llama.cpp has no word for, or a tokenizer that it does not compute; `MODEL_CORRUPT`, `IO`.
pub(super) fn contents(base: &Path, architecture: &Architecture, source: &MergedTensors<'_>) -> Result<Contents> {
    let config = source.config();
    let unsupported =
        |what: String| EngineError::new(ErrorCode::ModelUnsupported, format!("{}: {what}", base.display()));
    check_position(architecture, config).map_err(unsupported)?;
    let mut metadata = sizes(base, architecture, config);
    let settings = Settings::read(base)?;
    // As llama.cpp's converter chooses.
    let vocabulary = match base.join("tokenizer.model").is_file() {
        true => sentencepiece::read(base, &settings)?,
        false => byte_level::read(base, &settings)?,
    };
    metadata.extend(vocabulary.metadata(base, &settings, config)?);
    Ok(Contents {
        metadata,
        tensors: written(&architecture.names, source.shapes()),
        rope_factors: rope_factors(config),
    })
}

/// The error is what llama.cpp would compute otherwise.
fn check_position(architecture: &Architecture, config: &ModelConfig) -> std::result::Result<(), String> {
    let is_alibi = config.variant.position == PositionEncoding::Alibi;
    if is_alibi != (architecture.alibi_blocks == Some(config.num_hidden_layers)) {
        let (name, blocks) = (architecture.name, config.num_hidden_layers);
        let positions = if is_alibi { "ALiBi" } else { "rope" };
        return Err(format!(
            "llama.cpp knows by the number of blocks whether a model of `{name}` has ALiBi; one with {positions} and {blocks} blocks cannot be told; merge it into safetensors"
        ));
    }
    Ok(())
}

fn sizes(base: &Path, architecture: &Architecture, config: &ModelConfig) -> Vec<(String, MetadataValue)> {
    let name = base.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let mut metadata = vec![
        ("general.architecture".to_owned(), MetadataValue::text(architecture.name)),
        ("general.name".to_owned(), MetadataValue::text(&name.unwrap_or_default())),
    ];
    let mut put = |key: &str, value| metadata.push((format!("{}.{key}", architecture.name), value));
    let size = |value: usize| MetadataValue::u32(value as u32);
    put("vocab_size", size(config.vocab_size));
    put("context_length", size(config.max_position_embeddings));
    put("embedding_length", size(config.hidden_size));
    put("block_count", size(config.num_hidden_layers));
    put("feed_forward_length", size(config.intermediate_size));
    put("attention.head_count", size(config.num_attention_heads));
    put("attention.head_count_kv", size(config.num_key_value_heads));
    put("attention.key_length", size(config.head_dim));
    put("attention.value_length", size(config.head_dim));
    put("attention.layer_norm_rms_epsilon", MetadataValue::f32(config.rms_norm_eps as f32));
    if let Some(window) = config.sliding_window {
        put("attention.sliding_window", size(window));
    }
    if let PositionEncoding::Rope(Rope { rotated, scaling, .. }) = &config.variant.position {
        put("rope.dimension_count", size(rotated.unwrap_or(config.head_dim)));
        put("rope.freq_base", MetadataValue::f32(config.rope_theta as f32));
        if let RopeScaling::Linear { factor } = scaling {
            put("rope.scaling.type", MetadataValue::text("linear"));
            put("rope.scaling.factor", MetadataValue::f32(*factor as f32));
        }
    }
    metadata
}

/// Llama 3's scaling as one factor for each frequency.
fn rope_factors(config: &ModelConfig) -> Option<Vec<u8>> {
    let PositionEncoding::Rope(rope) = &config.variant.position else { return None };
    if !matches!(rope.scaling, RopeScaling::Llama3 { .. } | RopeScaling::Factors(_)) {
        return None;
    }
    let position = PositionEncoding::Rope(Rope { scaling: RopeScaling::None, ..rope.clone() });
    let plain = ModelConfig { variant: Variant { position, ..config.variant.clone() }, ..config.clone() };
    let (plain, scaled) = (rope_frequencies(&plain, false), rope_frequencies(config, false));
    Some(plain.iter().zip(scaled).flat_map(|(plain, scaled)| ((plain / scaled) as f32).to_le_bytes()).collect())
}
