//! A file mapped into memory, and windows of it as tensors.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use crate::error::{EngineError, ErrorCode, Result};
use crate::tensor::{HostTensor, StoredType, TensorBytes};

/// A read-only mapping together with the path it came from (for messages).
#[derive(Clone)]
pub(crate) struct MappedFile {
    pub path: PathBuf,
    pub map: Arc<Mmap>,
}

impl MappedFile {
    /// Maps a whole file. An empty file is `MODEL_CORRUPT`, since it cannot be mapped and holds no model.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| EngineError::io("open", path, &error))?;
        let length = file.metadata().map_err(|error| EngineError::io("look at", path, &error))?.len();
        if length == 0 {
            return Err(EngineError::new(ErrorCode::ModelCorrupt, format!("{} is empty", path.display())));
        }
        // SAFETY: the mapping is private and read-only; that nobody changes the file meanwhile is the documented contract of `load::open`.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| EngineError::io("map", path, &error))?;
        Ok(Self { path: path.to_path_buf(), map: Arc::new(map) })
    }

    /// The window as a tensor. Elements are aligned as their type needs it: a window that is not (possible in safetensors) is copied.
    pub fn tensor(&self, stored: StoredType, shape: Vec<usize>, window: Range<usize>) -> HostTensor {
        let aligned = (self.map.as_ptr() as usize + window.start).is_multiple_of(stored.alignment());
        let bytes = if aligned {
            TensorBytes::Mapped { file: self.map.clone(), start: window.start, len: window.len() }
        } else {
            TensorBytes::Owned(Arc::from(&self.map[window]))
        };
        HostTensor::new(stored, shape, bytes)
    }
}
