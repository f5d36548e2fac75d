//! The kernels' errors as the engine's.

use luthier_kernels::CudaError;

use crate::error::{EngineError, ErrorCode};

impl From<CudaError> for EngineError {
    fn from(error: CudaError) -> Self {
        if error.out_of_memory {
            let message = format!("{error}; use smaller batches, shorter examples or fewer bits for the weights");
            return Self::new(ErrorCode::OutOfMemory, message);
        }
        Self::internal(format!("GPU: {error}"))
    }
}
