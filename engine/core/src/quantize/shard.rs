//! A safetensors file that is written where its tensors belong and forced to disk.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, json};

use super::parts::Part;
use crate::checkpoint::header_bytes;
use crate::error::{EngineError, Result};

/// A safetensors file under way. Tensors of wide elements come first, so that
/// all are aligned without gaps, which the format does not have; so tensors are written where they belong, not one after another.
pub(super) struct Shard {
    path: PathBuf,
    file: File,
    /// By name: where it begins.
    places: BTreeMap<String, u64>,
    /// Bytes of tensors that are still to be written.
    missing: u64,
    bytes: u64,
}

impl Shard {
    /// Writes the header. Errors: `STORAGE_FULL`, `IO`.
    pub fn create(path: &Path, parts: &[&Part]) -> Result<Self> {
        let mut ordered = parts.to_vec();
        ordered.sort_by_key(|part| (Reverse(part.element_bytes()), &part.name));
        let mut header = Map::new();
        let (mut places, mut end) = (BTreeMap::new(), 0);
        for part in ordered {
            let start = end;
            end += part.bytes;
            let place = json!({ "dtype": part.dtype, "shape": part.shape, "data_offsets": [start, end] });
            header.insert(part.name.clone(), place);
            places.insert(part.name.clone(), start);
        }
        let header = header_bytes(header);
        let begin = header.len() as u64;
        places.values_mut().for_each(|place| *place += begin);
        let file = File::create_new(path).map_err(|cause| EngineError::io("create", path, &cause))?;
        let mut shard = Self { path: path.to_path_buf(), file, places, missing: end, bytes: begin + end };
        shard.write(0, &header)?;
        Ok(shard)
    }

    /// Writes one tensor.
    pub fn put(&mut self, part: &Part, bytes: &[u8]) -> Result<()> {
        let at = self.places.remove(&part.name).filter(|_| bytes.len() as u64 == part.bytes);
        let at = at.ok_or_else(|| EngineError::internal(format!("`{}` is not what its header says", part.name)))?;
        self.missing -= part.bytes;
        self.write(at, bytes)
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let written = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.write_all(bytes));
        written.map_err(|cause| EngineError::io("write", &self.path, &cause))
    }

    /// Forces the file to disk and returns its bytes.
    pub fn finish(self) -> Result<u64> {
        if self.missing > 0 {
            return Err(EngineError::internal(format!("{} lacks {} bytes", self.path.display(), self.missing)));
        }
        self.file.sync_all().map_err(|cause| EngineError::io("write", &self.path, &cause))?;
        Ok(self.bytes)
    }
}
