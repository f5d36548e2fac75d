//! `config.json` of a merged checkpoint: the base's with another type, or one made for a base that is a GGUF file.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::config::{ModelConfig, PositionEncoding, Rope, RopeScaling, Variant};
use crate::error::{EngineError, ErrorCode, Result};
use crate::model::rope_frequencies;
use crate::tensor::StoredType;

/// torch's name of the type.
fn torch_type(stored: StoredType) -> &'static str {
    if stored == StoredType::F16 { "float16" } else { "bfloat16" }
}

/// The base's `config.json` where `base` is a folder, else one with what the engine knows.
///
/// Errors: `MODEL_UNSUPPORTED` for a GGUF base of a family whose folders need code of their own, or whose rope has no word in transformers;
/// `MODEL_CORRUPT`, `IO`.
pub(super) fn config_json(base: &Path, config: &ModelConfig, stored: StoredType) -> Result<String> {
    let unsupported =
        |what: String| EngineError::new(ErrorCode::ModelUnsupported, format!("{}: {what}", base.display()));
    let mut object = match base.is_dir() {
        true => read(&base.join("config.json"))?,
        false => made(config).map_err(unsupported)?,
    };
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

/// For a GGUF base. The error is what cannot be told.
fn made(config: &ModelConfig) -> std::result::Result<Map<String, Value>, String> {
    // GGUF files of Mistral are of type llama; the window tells them apart, which transformers' Llama does not have.
    let (model_type, class) = match (config.model_type.as_str(), config.sliding_window) {
        ("llama", Some(_)) => ("mistral", "MistralForCausalLM"),
        ("llama", None) => ("llama", "LlamaForCausalLM"),
        ("qwen2", None) => ("qwen2", "Qwen2ForCausalLM"),
        ("qwen3", None) => ("qwen3", "Qwen3ForCausalLM"),
        (other, _) => {
            return Err(format!(
                "a GGUF file of `{other}` cannot be merged into a folder, which would need configuration and code of its own; merge it into a GGUF file"
            ));
        }
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
    let Variant { query_key_value_bias, output_bias, mlp_bias, ref position, .. } = config.variant;
    match model_type {
        // Its class always has them.
        "qwen2" => object["use_sliding_window"] = json!(false),
        _ if query_key_value_bias || output_bias || mlp_bias => {
            if model_type == "mistral" || query_key_value_bias != output_bias {
                return Err(format!("transformers' {class} has no such biases; merge it into a GGUF file"));
            }
            (object["attention_bias"], object["mlp_bias"]) = (json!(query_key_value_bias), json!(mlp_bias));
        }
        _ => {}
    }
    match position {
        PositionEncoding::Rope(Rope { scaling: RopeScaling::None, .. }) => {}
        PositionEncoding::Rope(Rope { scaling: RopeScaling::Linear { factor }, .. }) => {
            object["rope_scaling"] = json!({ "rope_type": "linear", "factor": factor });
        }
        PositionEncoding::Rope(Rope { scaling: RopeScaling::Factors(factors), .. }) => {
            object["rope_scaling"] = llama3(config, factors).ok_or(
                "its rope factors are none of Llama 3's, and transformers has no word for others; merge it into a GGUF file",
            )?;
        }
        _ => return Err("its positions have no word in transformers".to_owned()),
    }
    match object {
        Value::Object(object) => Ok(object),
        _ => Ok(Map::new()),
    }
}

/// The parameters of Llama 3's scaling that give these factors, among those of the published models.
fn llama3(config: &ModelConfig, factors: &[f32]) -> Option<Value> {
    let plain = rope_frequencies(&with_scaling(config, RopeScaling::None), true);
    let published = [8.0, 32.0].into_iter().find(|factor| {
        let scaling = RopeScaling::Llama3 {
            factor: *factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192.0,
        };
        let scaled = rope_frequencies(&with_scaling(config, scaling), true);
        let close = |((plain, scaled), factor): ((&f64, &f64), &f32)| {
            (plain / scaled - f64::from(*factor)).abs() < 1e-5 * f64::from(*factor)
        };
        plain.iter().zip(&scaled).zip(factors).all(close)
    })?;
    Some(json!({
        "rope_type": "llama3", "factor": published, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }))
}

fn with_scaling(config: &ModelConfig, scaling: RopeScaling) -> ModelConfig {
    let position = PositionEncoding::Rope(Rope { scaling, ..Rope::default() });
    ModelConfig { variant: Variant { position, ..config.variant.clone() }, ..config.clone() }
}
