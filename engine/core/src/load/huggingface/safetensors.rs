//! Tensors of a safetensors file.

use safetensors::{Dtype, SafeTensors};

use super::tensor_files::{ElementType, FileTensor, NamedTensors};
use crate::error::{EngineError, ErrorCode, Result};
use crate::load::mapped::MappedFile;

/// The file's tensors. `MODEL_CORRUPT` where it is cut or malformed.
pub(super) fn read_tensors(file: &MappedFile) -> Result<NamedTensors> {
    let header = SafeTensors::deserialize(&file.map).map_err(|error| {
        let path = file.path.display();
        let message = format!("{path}: not a complete safetensors file: {error}; is it a partial download?");
        EngineError::new(ErrorCode::ModelCorrupt, message)
    })?;
    let base = file.map.as_ptr() as usize;
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
