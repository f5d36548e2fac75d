//! Writing an adapter folder so that a crash never leaves half a file under a final name.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::config_json::config_json;
use super::{AdapterMetadata, CONFIG_FILE, METADATA_PREFIX, PeftAdapter, RANKS_PREFIX, WEIGHTS_FILE};
use crate::error::{EngineError, Result};
use crate::load::hex;

/// What was written. Field for field the `SavedAdapter` of `src/engine/engine.ts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedAdapter {
    /// Bytes of both files.
    pub bytes: u64,
    /// SHA-256 of `adapter_model.safetensors`; lower-case hex.
    pub sha256: String,
}

/// Writes `adapter_model.safetensors` (f32, PEFT's names, the origin in its metadata) and `adapter_config.json` into an existing folder.
///
/// Each file is written under another name, forced to disk, then renamed; the settings come last, so that a folder that has them is complete.
/// Errors: `INVALID_ARGUMENT` for parts of a fused layer with several scales; `STORAGE_FULL`, `IO`; temporary files are then removed.
pub fn write_adapter(folder: &Path, adapter: &PeftAdapter) -> Result<SavedAdapter> {
    let mut bytes_by_name: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let joined = adapter.names.join(&adapter.modules).map_err(EngineError::invalid)?;
    for (path, matrices) in &joined.modules {
        let sides = [
            ("lora_A", vec![matrices.r, matrices.in_features], &matrices.a),
            ("lora_B", vec![matrices.out_features, matrices.r], &matrices.b),
        ];
        for (label, shape, values) in sides {
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            bytes_by_name.push((format!("base_model.model.{path}.{label}.weight"), shape, bytes));
        }
    }
    let views = bytes_by_name
        .iter()
        .map(|(name, shape, bytes)| Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(|cause| EngineError::internal(format!("an adapter's matrices do not have their shapes: {cause}")))?;
    let mut about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    for (name, text) in adapter.metadata.iter().flat_map(AdapterMetadata::texts) {
        about.insert(format!("{METADATA_PREFIX}{name}"), text.to_owned());
    }
    for (path, ranks) in &joined.ranks {
        let ranks: Vec<String> = ranks.iter().map(usize::to_string).collect();
        about.insert(format!("{RANKS_PREFIX}{path}"), ranks.join(","));
    }
    let weights = serialize(views, Some(about))
        .map_err(|cause| EngineError::internal(format!("an adapter cannot be written as safetensors: {cause}")))
        .and_then(with_header_in_order)?;
    let config = config_json(adapter, &joined.modules).into_bytes();
    replace_file(folder, WEIGHTS_FILE, &weights)?;
    replace_file(folder, CONFIG_FILE, &config)?;
    Ok(SavedAdapter { bytes: (weights.len() + config.len()) as u64, sha256: hex(&Sha256::digest(&weights)) })
}

/// The same safetensors file with its header in the order of names: the library writes metadata in another order each time, and equal adapters
/// are to be equal files.
fn with_header_in_order(mut file: Vec<u8>) -> Result<Vec<u8>> {
    let broken = || EngineError::internal("an adapter was written as safetensors whose header cannot be read");
    let (length, rest) = file.split_first_chunk_mut().ok_or_else(broken)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| broken())?;
    let header = rest.get_mut(..length).ok_or_else(broken)?;
    let entries: BTreeMap<String, BTreeMap<String, Value>> = serde_json::from_slice(header).map_err(|_| broken())?;
    let ordered = serde_json::to_vec(&entries).map_err(|_| broken())?;
    // As long as it was, but for the blanks that fill it up.
    header.get_mut(..ordered.len()).ok_or_else(broken)?.copy_from_slice(&ordered);
    header[ordered.len()..].fill(b' ');
    Ok(file)
}

fn replace_file(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = folder.join(name);
    let temporary = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    let written = write_through(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, &path))
        .and_then(|()| sync_folder(folder));
    written.map_err(|cause| {
        // The first error is the one to report; a file that cannot be removed either is left behind under its temporary name.
        let _ = fs::remove_file(&temporary);
        EngineError::io("write", &path, &cause)
    })
}

fn write_through(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes a rename survive a power cut. Windows cannot open folders as files and does not need it.
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}
