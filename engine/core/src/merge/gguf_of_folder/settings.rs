//! What a folder says of its tokenizer beside the vocabulary: `tokenizer_config.json`, added tokens, the chat template.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{EngineError, ErrorCode, Result};

/// More ids than any vocabulary has.
const MAX_ID: u64 = 1 << 24;

/// A token beside the vocabulary's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AddedToken {
    pub id: u32,
    pub content: String,
    /// Never the text of a message.
    pub special: bool,
}

/// The settings.
pub(super) struct Settings {
    config: Map<String, Value>,
    /// By id.
    pub added: Vec<AddedToken>,
    pub chat_template: Option<String>,
    /// `tokenizer.json`, where there is one.
    pub tokenizer: Option<Map<String, Value>>,
}

impl Settings {
    /// Errors: `MODEL_CORRUPT` where a file is no JSON object, `IO`.
    pub fn read(folder: &Path) -> Result<Self> {
        let config = read_object(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
        let tokenizer = read_object(&folder.join("tokenizer.json"))?;
        let mut added = BTreeMap::new();
        let mut add = |id: Option<u64>, content: Option<&str>, special: bool| {
            if let (Some(id), Some(content)) = (id.filter(|id| *id < MAX_ID), content) {
                let id = id as u32;
                added.insert(id, AddedToken { id, content: content.to_owned(), special });
            }
        };
        let is_special = |token: &Value| token.get("special").and_then(Value::as_bool).unwrap_or(false);
        let content = |token: &Value| token.get("content").and_then(Value::as_str).map(str::to_owned);
        // The later ones know more.
        for (content, id) in read_object(&folder.join("added_tokens.json"))?.iter().flatten() {
            add(id.as_u64(), Some(content), false);
        }
        let listed = tokenizer.as_ref().and_then(|tokenizer| tokenizer.get("added_tokens")?.as_array());
        for token in listed.into_iter().flatten() {
            add(token.get("id").and_then(Value::as_u64), content(token).as_deref(), is_special(token));
        }
        for (id, token) in config.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten() {
            add(id.parse().ok(), content(token).as_deref(), is_special(token));
        }
        let chat_template = chat_template(folder, &config)?;
        Ok(Self { added: added.into_values().collect(), config, chat_template, tokenizer })
    }

    /// The text of `bos_token` and the like.
    pub fn special_token(&self, name: &str) -> Option<&str> {
        let value = self.config.get(name)?;
        value.as_str().or_else(|| value.get("content")?.as_str())
    }

    /// A truth value that is there.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.config.get(name)?.as_bool()
    }
}

fn chat_template(folder: &Path, config: &Map<String, Value>) -> Result<Option<String>> {
    let path = folder.join("chat_template.jinja");
    if path.is_file() {
        return std::fs::read_to_string(&path).map(Some).map_err(|cause| EngineError::io("read", &path, &cause));
    }
    let template = match config.get("chat_template") {
        Some(Value::Array(named)) => {
            let default = named.iter().find(|one| one.get("name").is_some_and(|name| name == "default"));
            default.and_then(|one| one.get("template"))
        }
        other => other,
    };
    Ok(template.and_then(Value::as_str).map(str::to_owned))
}

fn read_object(path: &Path) -> Result<Option<Map<String, Value>>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read(path).map_err(|cause| EngineError::io("read", path, &cause))?;
    serde_json::from_slice(&text).map(Some).map_err(|cause| {
        EngineError::new(ErrorCode::ModelCorrupt, format!("{}: not a JSON object: {cause}", path.display()))
    })
}
