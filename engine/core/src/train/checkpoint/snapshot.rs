//! A run's state in host memory, and writing it.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::files::{
    CheckpointFile, DOCUMENT_FILE, Document, FORMAT_VERSION, HashedFile, SavedCheckpoint, TENSORS_FILE, document_bytes,
};
use super::identity::Identity;
use super::state::RunState;
use super::tensors::HostTensors;
use crate::checkpoint::header_bytes;
use crate::error::Result;
use crate::ops::HostValues;

/// Numbers that are turned into bytes at once.
const AT_ONCE: usize = 1 << 16;

/// What a run needs to go on, copied between two pieces of its work. Written by any thread while the run goes on.
pub struct Snapshot {
    pub(in crate::train) identity: Arc<Identity>,
    pub(in crate::train) state: RunState,
    pub(in crate::train) tensors: HostTensors,
}

impl Snapshot {
    /// Steps done.
    pub fn global_step(&self) -> u64 {
        self.state.global_step
    }

    /// Bytes of its tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|(_, values)| size(values)).sum()
    }

    /// Writes `state.safetensors`, then `checkpoint.json`, into an existing folder, through to the disk. The caller makes the folder's own entry
    /// durable. The first of a run's reads all its examples.
    ///
    /// Errors: `STORAGE_FULL`, `IO`, also where the folder has such files; what was written by then stays.
    pub fn write(&self, folder: &Path) -> Result<SavedCheckpoint> {
        let tensors = self.write_tensors(folder)?;
        let document = Document {
            sha256: String::new(),
            format_version: FORMAT_VERSION,
            files: vec![tensors.clone()],
            state: self.state.clone(),
            run: self.identity.whole().clone(),
        };
        let mut file = HashedFile::create(folder, DOCUMENT_FILE)?;
        file.write(&document_bytes(&document)?)?;
        let files = vec![tensors, file.finish(DOCUMENT_FILE)?];
        Ok(SavedCheckpoint { global_step: self.state.global_step, files })
    }

    fn write_tensors(&self, folder: &Path) -> Result<CheckpointFile> {
        let (mut header, mut end) = (Map::new(), 0);
        for (name, values) in self.tensors.iter() {
            let dtype = match values {
                HostValues::F32(_) => "F32",
                HostValues::F64(_) => "F64",
                HostValues::Codes(_) => "U8",
            };
            let first = end;
            end += size(values);
            let entry = json!({ "dtype": dtype, "shape": [values.len()], "data_offsets": [first, end] });
            header.insert(name.to_owned(), Value::from(entry));
        }
        let mut file = HashedFile::create(folder, TENSORS_FILE)?;
        file.write(&header_bytes(header))?;
        for (_, values) in self.tensors.iter() {
            match values {
                HostValues::F32(values) => write_numbers(&mut file, values, |value| value.to_le_bytes())?,
                HostValues::F64(values) => write_numbers(&mut file, values, |value| value.to_le_bytes())?,
                HostValues::Codes(codes) => file.write(codes)?,
            }
        }
        file.finish(TENSORS_FILE)
    }
}

fn size(values: &HostValues) -> u64 {
    let of_one = match values {
        HostValues::F32(_) => 4,
        HostValues::F64(_) => 8,
        HostValues::Codes(_) => 1,
    };
    values.len() as u64 * of_one
}

fn write_numbers<T: Copy, const N: usize>(
    file: &mut HashedFile,
    values: &[T],
    bytes: impl Fn(T) -> [u8; N],
) -> Result<()> {
    let mut buffer = vec![[0; N]; AT_ONCE.min(values.len())];
    for values in values.chunks(AT_ONCE) {
        for (place, value) in buffer.iter_mut().zip(values) {
            *place = bytes(*value);
        }
        file.write(buffer[..values.len()].as_flattened())?;
    }
    Ok(())
}
