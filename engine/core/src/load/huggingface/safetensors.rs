//! Tensors of a safetensors file.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use super::tensor_files::{ElementType, FileTensor, NamedTensors};
use crate::error::{EngineError, ErrorCode, Result};

/// The tensors of a file's bytes. `MODEL_CORRUPT` where it is cut or malformed.
pub(super) fn read_tensors(path: &Path, bytes: &[u8]) -> Result<NamedTensors> {
    let header = SafeTensors::deserialize(bytes).map_err(|error| {
        let path = path.display();
        let message = format!("{path}: not a complete safetensors file: {error}; is it a partial download?");
        EngineError::new(ErrorCode::ModelCorrupt, message)
    })?;
    let base = bytes.as_ptr() as usize;
    let tensors = header.iter().map(|(name, view)| {
        let start = view.data().as_ptr() as usize - base;
        let element = match view.dtype() {
            Dtype::F32 => ElementType::F32,
            Dtype::F16 => ElementType::F16,
            Dtype::BF16 => ElementType::BF16,
            Dtype::U8 => ElementType::U8,
            Dtype::I8 => ElementType::I8,
            other => ElementType::Other(format!("{other:?}")),
        };
        (
            name.to_owned(),
            FileTensor { element, shape: view.shape().to_vec(), window: start..start + view.data().len() },
        )
    });
    Ok(tensors.collect())
}
