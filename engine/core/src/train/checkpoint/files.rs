//! Files of a checkpoint: their names, and writing them with their hashes.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::identity::RunIdentity;
use super::state::RunState;
use crate::error::{EngineError, ErrorCode, Result};
use crate::load::hex;

/// Tensors.
pub const TENSORS_FILE: &str = "state.safetensors";
/// Everything else; written last.
pub const DOCUMENT_FILE: &str = "checkpoint.json";
/// Of both files. Another version is not read.
pub const FORMAT_VERSION: u32 = 1;

/// Before the document's own hash; see [`document_bytes`].
const HASH_BEGINS: &str = "{\n  \"sha256\": \"";
const HASH_DIGITS: usize = 64;

/// A file, on the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointFile {
    pub name: String,
    pub bytes: u64,
    /// Lower-case hex.
    pub sha256: String,
}

/// A checkpoint on the disk. Field for field the `SavedCheckpoint` of `src/engine/engine.ts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedCheckpoint {
    /// Steps done.
    pub global_step: u64,
    pub files: Vec<CheckpointFile>,
}

/// `checkpoint.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Of this file with zeros in its place.
    pub sha256: String,
    pub format_version: u32,
    pub files: Vec<CheckpointFile>,
    pub state: RunState,
    pub run: RunIdentity,
}

/// The document as it is written, with its own hash: SHA-256 of the bytes in which the hash's 64 digits are zeros.
pub fn document_bytes(document: &Document) -> Result<Vec<u8>> {
    let blank = Document { sha256: "0".repeat(HASH_DIGITS), ..document.clone() };
    let mut bytes = serde_json::to_vec_pretty(&blank)
        .map_err(|cause| EngineError::internal(format!("a checkpoint cannot be written as JSON: {cause}")))?;
    bytes.push(b'\n');
    if !bytes.starts_with(HASH_BEGINS.as_bytes()) {
        return Err(EngineError::internal("a checkpoint's hash does not come first"));
    }
    let hash = hex(&Sha256::digest(&bytes));
    bytes[HASH_BEGINS.len()..][..HASH_DIGITS].copy_from_slice(hash.as_bytes());
    Ok(bytes)
}

/// Checks the document's own hash. `CHECKPOINT_CORRUPT` where it is another.
pub fn check_document(path: &Path, bytes: &[u8]) -> Result<()> {
    let place = HASH_BEGINS.len()..HASH_BEGINS.len() + HASH_DIGITS;
    let mut blank = bytes.to_vec();
    let Some(digits) = blank.get_mut(place.clone()) else {
        let message = format!("{}: {} bytes; expected more; {RESTORE}", path.display(), bytes.len());
        return Err(EngineError::new(ErrorCode::CheckpointCorrupt, message));
    };
    digits.fill(b'0');
    let found = hex(&Sha256::digest(&blank));
    if found.as_bytes() == &bytes[place.clone()] {
        return Ok(());
    }
    Err(corrupt_hash(path, &String::from_utf8_lossy(&bytes[place]), &found))
}

/// What to do about a broken checkpoint.
pub const RESTORE: &str = "go on from another checkpoint";

/// `CHECKPOINT_CORRUPT` for a file whose bytes are others than were written.
pub fn corrupt_hash(path: &Path, expected: &str, found: &str) -> EngineError {
    let message = format!("{}: expected SHA-256 {expected}, found {found}; {RESTORE}", path.display());
    EngineError::new(ErrorCode::CheckpointCorrupt, message)
}

/// A new file that is hashed while it is written.
pub struct HashedFile {
    path: PathBuf,
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl HashedFile {
    /// `IO` where there is one of this name.
    pub fn create(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(name);
        let file = File::create_new(&path).map_err(|cause| EngineError::io("create", &path, &cause))?;
        Ok(Self { path, file, hash: Sha256::new(), bytes: 0 })
    }

    /// Appends.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|cause| EngineError::io("write", &self.path, &cause))
    }

    /// Forces it to the disk.
    pub fn finish(self, name: &str) -> Result<CheckpointFile> {
        self.file.sync_all().map_err(|cause| EngineError::io("write", &self.path, &cause))?;
        Ok(CheckpointFile { name: name.to_owned(), bytes: self.bytes, sha256: hex(&self.hash.finalize()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `/dev/full` refuses every byte as a full disk does.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_told_as_such() {
        let path = PathBuf::from("/dev/full");
        let file = File::options().write(true).open(&path).unwrap();
        let mut file = HashedFile { path, file, hash: Sha256::new(), bytes: 0 };
        assert_eq!(file.write(b"state").unwrap_err().code, ErrorCode::StorageFull);
    }
}
