//! `config.json` and `generation_config.json` of the Llama and Mistral architectures. What this decoder does not compute is refused by name.

use std::path::Path;

use serde_json::{Map, Value};

use super::bitsandbytes::check_method;
use crate::config::ModelConfig;
use crate::error::{EngineError, ErrorCode, Result};

/// `model_type` of each architecture with this decoder's block, and the class that computes it.
const ARCHITECTURES: [(&str, &str); 2] = [("llama", "LlamaForCausalLM"), ("mistral", "MistralForCausalLM")];

/// Larger JSON files than this are no configuration.
const MAX_JSON_BYTES: u64 = 16 << 20;

/// Reads a JSON object. `None` where the file does not exist; `MODEL_CORRUPT` where it is no JSON object.
pub(super) fn read_json(path: &Path) -> Result<Option<Map<String, Value>>> {
    let corrupt = |what: String| EngineError::new(ErrorCode::ModelCorrupt, format!("{}: {what}", path.display()));
    let length = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(EngineError::io("look at", path, &error)),
    };
    if length > MAX_JSON_BYTES {
        return Err(corrupt(format!("{length} bytes are too many; expected at most {MAX_JSON_BYTES}")));
    }
    let text = std::fs::read(path).map_err(|error| EngineError::io("read", path, &error))?;
    match serde_json::from_slice(&text) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        Ok(_) => Err(corrupt("expected a JSON object".to_owned())),
        Err(error) => Err(corrupt(format!("not valid JSON: {error}"))),
    }
}

/// The fields of one `config.json`, with errors that name file and field.
struct Fields<'a> {
    path: &'a Path,
    object: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn corrupt(&self, what: impl std::fmt::Display) -> EngineError {
        EngineError::new(ErrorCode::ModelCorrupt, format!("{}: {what}", self.path.display()))
    }

    fn unsupported(&self, what: impl std::fmt::Display) -> EngineError {
        EngineError::new(ErrorCode::ModelUnsupported, format!("{}: {what}", self.path.display()))
    }

    /// A field that is there and not null.
    fn get(&self, name: &str) -> Option<&Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    fn optional_size(&self, name: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_u64() {
            Some(size) => Ok(Some(size as usize)),
            None => Err(self.corrupt(format_args!("`{name}` is {value}; expected a whole number of at least 0"))),
        }
    }

    fn size(&self, name: &str) -> Result<usize> {
        self.optional_size(name)?.ok_or_else(|| self.corrupt(format_args!("`{name}` is missing")))
    }

    fn number(&self, name: &str, default: f64) -> Result<f64> {
        let Some(value) = self.get(name) else { return Ok(default) };
        value.as_f64().ok_or_else(|| self.corrupt(format_args!("`{name}` is {value}; expected a number")))
    }

    fn flag(&self, name: &str) -> Result<bool> {
        let Some(value) = self.get(name) else { return Ok(false) };
        value.as_bool().ok_or_else(|| self.corrupt(format_args!("`{name}` is {value}; expected true or false")))
    }

    /// One id or a list of ids; absent or null: none.
    fn ids(&self, name: &str) -> Result<Vec<u32>> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match self.get(name) {
            None => Some(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            Some(one) => id(one).map(|id| vec![id]),
        };
        ids.ok_or_else(|| {
            self.corrupt(format_args!("`{name}` is {}; expected a token id or a list of them", self.object[name]))
        })
    }
}

/// Reads the folder's configuration. Defaults are those of transformers' `LlamaConfig`.
pub(super) fn read_config(folder: &Path) -> Result<ModelConfig> {
    let path = folder.join("config.json");
    let object = read_json(&path)?.ok_or_else(|| {
        let message = format!("{} has no config.json; expected a Hugging Face model folder", folder.display());
        EngineError::new(ErrorCode::ModelNotFound, message)
    })?;
    let fields = Fields { path: &path, object: &object };
    let model_type = supported_type(&fields)?;
    refuse_unsupported(&fields)?;
    let hidden_size = fields.size("hidden_size")?;
    let num_attention_heads = fields.size("num_attention_heads")?;
    let head_dim = match fields.optional_size("head_dim")? {
        Some(head_dim) => head_dim,
        None if num_attention_heads > 0 && hidden_size.is_multiple_of(num_attention_heads) => {
            hidden_size / num_attention_heads
        }
        None => {
            return Err(fields.corrupt(format_args!(
                "hidden_size {hidden_size} is not a multiple of num_attention_heads {num_attention_heads}"
            )));
        }
    };
    // transformers 5 writes the base into `rope_parameters`, earlier versions beside it.
    let rope_theta = match fields.get("rope_parameters").and_then(Value::as_object) {
        Some(rope) if rope.contains_key("rope_theta") => {
            Fields { path: &path, object: rope }.number("rope_theta", 10_000.0)?
        }
        _ => fields.number("rope_theta", 10_000.0)?,
    };
    let generation_path = folder.join("generation_config.json");
    let mut eos_token_ids = match read_json(&generation_path)? {
        Some(object) => Fields { path: &generation_path, object: &object }.ids("eos_token_id")?,
        None => Vec::new(),
    };
    if eos_token_ids.is_empty() {
        eos_token_ids = fields.ids("eos_token_id")?;
    }
    Ok(ModelConfig {
        model_type: model_type.to_owned(),
        vocab_size: fields.size("vocab_size")?,
        hidden_size,
        intermediate_size: fields.size("intermediate_size")?,
        num_hidden_layers: fields.size("num_hidden_layers")?,
        num_attention_heads,
        num_key_value_heads: fields.optional_size("num_key_value_heads")?.unwrap_or(num_attention_heads),
        head_dim,
        // Llama's classes do not read it; Mistral's take 4096 where it is absent, and none where it is null.
        sliding_window: match model_type {
            "mistral" if !object.contains_key("sliding_window") => Some(4096),
            "mistral" => fields.optional_size("sliding_window")?,
            _ => None,
        },
        max_position_embeddings: fields.optional_size("max_position_embeddings")?.unwrap_or(2048),
        rms_norm_eps: fields.number("rms_norm_eps", 1e-6)?,
        rope_theta,
        tie_word_embeddings: fields.flag("tie_word_embeddings")?,
        eos_token_ids,
        bos_token_id: fields.ids("bos_token_id")?.first().copied(),
    })
}

/// The folder's `model_type`, where it and its class are among [`ARCHITECTURES`].
fn supported_type(fields: &Fields<'_>) -> Result<&'static str> {
    let found = fields.get("model_type").and_then(Value::as_str);
    let Some((model_type, class)) = ARCHITECTURES.into_iter().find(|(name, _)| found == Some(name)) else {
        let (found, supported) = (found.unwrap_or("none"), ARCHITECTURES.map(|(name, _)| name).join(", "));
        return Err(fields.unsupported(format_args!("model_type `{found}` is not supported; supported: {supported}")));
    };
    if let Some(architectures) = fields.get("architectures").and_then(Value::as_array)
        && !architectures.iter().any(|name| name == class)
    {
        let found = fields.object["architectures"].to_string();
        return Err(fields.unsupported(format_args!("architectures {found} are not supported; supported: {class}")));
    }
    Ok(model_type)
}

fn refuse_unsupported(fields: &Fields<'_>) -> Result<()> {
    for name in ["rope_scaling", "rope_parameters"] {
        let Some(rope) = fields.get(name).and_then(Value::as_object) else { continue };
        let kind = rope.get("rope_type").or_else(|| rope.get("type")).and_then(Value::as_str).unwrap_or("default");
        if kind != "default" {
            return Err(
                fields.unsupported(format_args!("{name} of type `{kind}` is not supported; supported: default"))
            );
        }
    }
    for name in ["attention_bias", "mlp_bias"] {
        if fields.flag(name)? {
            return Err(fields.unsupported(format_args!("{name} is not supported")));
        }
    }
    if let Some(activation) = fields.get("hidden_act").filter(|activation| *activation != "silu") {
        return Err(fields.unsupported(format_args!("hidden_act {activation} is not supported; supported: \"silu\"")));
    }
    if let Some(factor) = fields.get("partial_rotary_factor").filter(|factor| factor.as_f64() != Some(1.0)) {
        return Err(fields.unsupported(format_args!("partial_rotary_factor {factor} is not supported; supported: 1")));
    }
    if let Some(quantization) = fields.get("quantization_config") {
        check_method(quantization).map_err(|what| fields.unsupported(what))?;
    }
    Ok(())
}
