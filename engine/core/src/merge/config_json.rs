//! `config.json` of a merged checkpoint: the base's with another type, or one made for a base that is a GGUF file.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::checkpoint::SAME_NAMES;
use crate::config::ModelConfig;
use crate::error::{EngineError, ErrorCode, Result};
use crate::tensor::StoredType;

/// torch's name of the type.
fn torch_type(stored: StoredType) -> &'static str {
    if stored == StoredType::F16 { "float16" } else { "bfloat16" }
}

/// The base's `config.json` where `base` is a folder, else one with what the engine knows.
///
/// Errors: `MODEL_UNSUPPORTED` for an architecture whose checkpoints have other tensors; `MODEL_CORRUPT`, `IO`.
pub(super) fn config_json(base: &Path, config: &ModelConfig, stored: StoredType) -> Result<String> {
    if !SAME_NAMES.contains(&config.model_type.as_str()) {
        let message = format!(
            "{}: checkpoints of model_type `{}` cannot be written; supported: {}",
            base.display(),
            config.model_type,
            SAME_NAMES.join(", ")
        );
        return Err(EngineError::new(ErrorCode::ModelUnsupported, message));
    }
    let mut object = if base.is_dir() { read(&base.join("config.json"))? } else { made(config) };
    // Of a base that bitsandbytes quantized; the merged numbers are not.
    object.remove("quantization_config");
    // transformers 5 writes `dtype` and reads both; earlier versions know `torch_dtype` alone.
    let keys: Vec<&str> = ["dtype", "torch_dtype"].into_iter().filter(|key| object.contains_key(*key)).collect();
    for key in if keys.is_empty() { vec!["torch_dtype"] } else { keys } {
        object.insert(key.to_owned(), json!(torch_type(stored)));
    }
    Ok(format!("{:#}\n", Value::Object(object)))
}

fn read(path: &Path) -> Result<Map<String, Value>> {
    let text = std::fs::read(path).map_err(|cause| EngineError::io("read", path, &cause))?;
    serde_json::from_slice(&text).map_err(|cause| {
        EngineError::new(ErrorCode::ModelCorrupt, format!("{}: not a JSON object: {cause}", path.display()))
    })
}

fn made(config: &ModelConfig) -> Map<String, Value> {
    // GGUF files of Mistral are of type llama; the window tells them apart, which transformers' Llama does not have.
    let (model_type, class) = match config.sliding_window {
        Some(_) => ("mistral", "MistralForCausalLM"),
        None => ("llama", "LlamaForCausalLM"),
    };
    // GGUF holds it as f32: 1e-5 and not 9.99…e-6.
    let epsilon: f64 = (config.rms_norm_eps as f32).to_string().parse().unwrap_or(config.rms_norm_eps);
    let mut object = json!({
        "architectures": [class],
        "bos_token_id": config.bos_token_id,
        "eos_token_id": match config.eos_token_ids[..] {
            [] => Value::Null,
            [id] => json!(id),
            ref ids => json!(ids),
        },
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "model_type": model_type,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "rms_norm_eps": epsilon,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_word_embeddings,
        "vocab_size": config.vocab_size,
    });
    if let Some(window) = config.sliding_window {
        object["sliding_window"] = json!(window);
    }
    match object {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}
