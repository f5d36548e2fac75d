//! A file that is written front to back and forced to disk.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{EngineError, Result};

/// Bytes that go to the system at once.
const BUFFER_BYTES: usize = 1 << 20;

pub(super) struct Output {
    path: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
}

impl Output {
    /// A new file; one that is there already is an error.
    pub fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        let file = file.map_err(|cause| EngineError::io("create", path, &cause))?;
        Ok(Self { path: path.to_path_buf(), file: BufWriter::with_capacity(BUFFER_BYTES, file), bytes: 0 })
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|cause| EngineError::io("write", &self.path, &cause))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Zeros up to a multiple of `alignment`.
    pub fn pad(&mut self, alignment: u64) -> Result<()> {
        let missing = self.bytes.next_multiple_of(alignment) - self.bytes;
        self.write(&vec![0; missing as usize])
    }

    /// Forces it to disk and returns its bytes.
    pub fn finish(self) -> Result<u64> {
        let Self { path, file, bytes } = self;
        let written = file.into_inner().map_err(std::io::IntoInnerError::into_error).and_then(|file| file.sync_all());
        written.map_err(|cause| EngineError::io("write", &path, &cause))?;
        Ok(bytes)
    }
}
