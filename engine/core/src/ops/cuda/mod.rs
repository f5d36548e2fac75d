//! One NVIDIA GPU.

mod device;
mod error;
mod linear;
mod memory;
mod prices;
mod weight;

pub use device::CudaOps;
pub use luthier_kernels::NumberType;
pub use memory::{CudaBuffer, CudaIndices};
pub use weight::CudaWeight;
