//! What went wrong on the device, and in which call.

use cudarc::driver::DriverError;

/// A failed call.
#[derive(Debug)]
pub struct CudaError {
    /// What was attempted.
    pub what: String,
    /// The driver's name and text for it.
    pub message: String,
    /// The device had no memory left.
    pub out_of_memory: bool,
}

/// Of every function here.
pub type Result<T> = std::result::Result<T, CudaError>;

impl CudaError {
    /// From the driver.
    pub fn new(what: impl Into<String>, error: &DriverError) -> Self {
        let text = |found: std::result::Result<&std::ffi::CStr, DriverError>| {
            found.map_or_else(|_| format!("{:?}", error.0), |text| text.to_string_lossy().into_owned())
        };
        Self {
            what: what.into(),
            message: format!("{}: {}", text(error.error_name()), text(error.error_string())),
            out_of_memory: error.0 == cudarc::driver::sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY,
        }
    }
}

impl std::fmt::Display for CudaError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}", self.what, self.message)
    }
}

impl std::error::Error for CudaError {}
