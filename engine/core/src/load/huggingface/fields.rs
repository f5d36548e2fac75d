//! JSON objects of a model's folder, with errors that name file and field.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{EngineError, ErrorCode, Result};

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
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub path: &'a Path,
    pub object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub fn corrupt(&self, what: impl std::fmt::Display) -> EngineError {
        EngineError::new(ErrorCode::ModelCorrupt, format!("{}: {what}", self.path.display()))
    }

    pub fn unsupported(&self, what: impl std::fmt::Display) -> EngineError {
        EngineError::new(ErrorCode::ModelUnsupported, format!("{}: {what}", self.path.display()))
    }

    /// A field that is there and not null.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    pub fn optional_size(&self, name: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_u64() {
            Some(size) => Ok(Some(size as usize)),
            None => Err(self.corrupt(format_args!("`{name}` is {value}; expected a whole number of at least 0"))),
        }
    }

    pub fn size(&self, name: &str) -> Result<usize> {
        self.optional_size(name)?.ok_or_else(|| self.corrupt(format_args!("`{name}` is missing")))
    }

    pub fn size_or(&self, name: &str, default: usize) -> Result<usize> {
        Ok(self.optional_size(name)?.unwrap_or(default))
    }

    pub fn number(&self, name: &str, default: f64) -> Result<f64> {
        let Some(value) = self.get(name) else { return Ok(default) };
        value.as_f64().ok_or_else(|| self.corrupt(format_args!("`{name}` is {value}; expected a number")))
    }

    /// An object's fields, where there is one of this name.
    pub fn inner(&self, name: &str) -> Option<Fields<'a>> {
        let object = self.get(name).and_then(Value::as_object)?;
        Some(Fields { object, ..*self })
    }

    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name).and_then(Value::as_str)
    }

    pub fn flag(&self, name: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(name) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.corrupt(format_args!("`{name}` is {value}; expected true or false")))
    }

    /// One id or a list of ids; absent or null: none.
    pub fn ids(&self, name: &str) -> Result<Vec<u32>> {
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
