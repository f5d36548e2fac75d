//! `config.json` and `generation_config.json`: the family is found by `model_type`, and reads the rest.

use std::path::Path;

use super::families::{FAMILIES, Family};
use super::fields::{Fields, read_json};
use crate::config::ModelConfig;
use crate::error::{EngineError, ErrorCode, Result};

/// Reads the folder's configuration. What this decoder does not compute is refused by name.
pub(super) fn read_config(folder: &Path) -> Result<ModelConfig> {
    let path = folder.join("config.json");
    let object = read_json(&path)?.ok_or_else(|| {
        let message = format!("{} has no config.json; expected a Hugging Face model folder", folder.display());
        EngineError::new(ErrorCode::ModelNotFound, message)
    })?;
    let fields = Fields { path: &path, object: &object };
    let family = family(&fields)?;
    let mut config = (family.config)(&fields)?;
    let generation_path = folder.join("generation_config.json");
    if let Some(object) = read_json(&generation_path)? {
        config.eos_token_ids = Fields { path: &generation_path, object: &object }.ids("eos_token_id")?;
    }
    if config.eos_token_ids.is_empty() {
        config.eos_token_ids = fields.ids("eos_token_id")?;
    }
    config.bos_token_id = fields.ids("bos_token_id")?.first().copied();
    Ok(config)
}

/// The family of the folder's `model_type`, whose class is one of the family's.
fn family(fields: &Fields<'_>) -> Result<&'static Family> {
    let found = fields.text("model_type");
    let Some(family) = FAMILIES.into_iter().find(|family| found == Some(family.model_type)) else {
        let (found, supported) = (found.unwrap_or("none"), FAMILIES.map(|family| family.model_type).join(", "));
        return Err(fields.unsupported(format_args!("model_type `{found}` is not supported; supported: {supported}")));
    };
    if let Some(architectures) = fields.get("architectures").and_then(serde_json::Value::as_array)
        && !architectures.iter().any(|name| family.classes.iter().any(|class| name == class))
    {
        let (found, supported) = (&fields.object["architectures"], family.classes.join(", "));
        return Err(fields.unsupported(format_args!("architectures {found} are not supported; supported: {supported}")));
    }
    Ok(family)
}
