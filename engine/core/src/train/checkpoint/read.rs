//! Reading a checkpoint's files.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::files::{
    CheckpointFile, DOCUMENT_FILE, Document, FORMAT_VERSION, RESTORE, TENSORS_FILE, check_document, corrupt_hash,
};
use super::identity::RunIdentity;
use super::state::RunState;
use super::tensors::HostTensors;
use crate::error::{EngineError, ErrorCode, Result};
use crate::load::hex;
use crate::ops::HostValues;

/// A run's state, read and found as it was written.
pub struct Checkpoint {
    pub(in crate::train) run: RunIdentity,
    pub(in crate::train) state: RunState,
    pub(in crate::train) tensors: HostTensors,
}

impl Checkpoint {
    /// Reads a folder that [`Snapshot::write`](super::Snapshot::write) filled.
    ///
    /// Errors: `CHECKPOINT_CORRUPT` where a file is missing or not as it was written; `CHECKPOINT_MISMATCH` for another version of the format;
    /// `IO`.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(DOCUMENT_FILE);
        let bytes = read(&path)?;
        check_document(&path, &bytes)?;
        let wrong = |cause: serde_json::Error| corrupt(&path, &format!("not as documented: {cause}"));
        let document: Value = serde_json::from_slice(&bytes).map_err(wrong)?;
        let version = &document["format_version"];
        if version.as_u64() != Some(u64::from(FORMAT_VERSION)) {
            let message = format!(
                "{}: format version {version}; expected {FORMAT_VERSION}; go on with the engine that wrote it",
                path.display()
            );
            return Err(EngineError::new(ErrorCode::CheckpointMismatch, message));
        }
        let Document { files, state, run, .. } = serde_json::from_value(document).map_err(wrong)?;
        let tensors = match &files[..] {
            [file] if file.name == TENSORS_FILE => read_tensors(folder, file)?,
            _ => return Err(corrupt(&path, &format!("names {} files; expected {TENSORS_FILE}", files.len()))),
        };
        Ok(Self { run, state, tensors })
    }

    /// Steps done.
    pub fn global_step(&self) -> u64 {
        self.state.global_step
    }
}

fn read_tensors(folder: &Path, expected: &CheckpointFile) -> Result<HostTensors> {
    let path = folder.join(TENSORS_FILE);
    let bytes = read(&path)?;
    let found = hex(&Sha256::digest(&bytes));
    if found != expected.sha256 {
        return Err(corrupt_hash(&path, &expected.sha256, &found));
    }
    let file = SafeTensors::deserialize(&bytes).map_err(|cause| corrupt(&path, &format!("no safetensors: {cause}")))?;
    let mut tensors = BTreeMap::new();
    for (name, tensor) in file.tensors() {
        let data = tensor.data();
        let values = match tensor.dtype() {
            Dtype::F32 => HostValues::F32(data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
            Dtype::F64 => HostValues::F64(data.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()),
            Dtype::U8 => HostValues::Codes(data.to_vec()),
            other => return Err(corrupt(&path, &format!("`{name}` is {other:?}; expected F32, F64 or U8"))),
        };
        tensors.insert(name, values);
    }
    Ok(HostTensors::new(tensors))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|cause| match cause.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => corrupt(path, "the file is missing"),
        _ => EngineError::io("read", path, &cause),
    })
}

fn corrupt(path: &Path, what: &str) -> EngineError {
    EngineError::new(ErrorCode::CheckpointCorrupt, format!("{}: {what}; {RESTORE}", path.display()))
}
