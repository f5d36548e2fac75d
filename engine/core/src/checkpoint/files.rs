//! Small files: written once and forced to disk, or copied from a base.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::error::{EngineError, Result};

/// What a folder has beside weights and configuration that a copy needs: generation settings, tokenizer, template.
const COPIED: [&str; 11] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
];

/// Whether a copy needs code of models that transformers does not know itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Copied,
    LeftOut,
}

/// Writes a whole new file, forces it to disk and returns its bytes. A file that is there already is an error.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<u64> {
    let mut file = File::create_new(path).map_err(|cause| EngineError::io("create", path, &cause))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.map_err(|cause| EngineError::io("write", path, &cause))?;
    Ok(bytes.len() as u64)
}

/// Copies what a copy of a model needs from the base's folder, and returns its bytes.
pub(crate) fn copy_files(base: &Path, code: Code, folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    let entries = std::fs::read_dir(base).map_err(|cause| EngineError::io("read", base, &cause))?;
    for entry in entries {
        let path = entry.map_err(|cause| EngineError::io("read", base, &cause))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let wanted = COPIED.contains(&name) || (code == Code::Copied && name.ends_with(".py"));
        if wanted && path.is_file() {
            let contents = std::fs::read(&path).map_err(|cause| EngineError::io("read", &path, &cause))?;
            bytes += write_file(&folder.join(name), &contents)?;
        }
    }
    Ok(bytes)
}
