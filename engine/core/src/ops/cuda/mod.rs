//! One NVIDIA GPU.

mod attention;
mod collective;
mod device;
mod error;
mod linear;
mod low_rank;
mod memory;
mod operations;
mod pinned;
mod prices;
mod staging;
mod transfer;
mod weight;

pub use collective::{BUCKET_LEN, check_nccl, nccl};
pub use device::CudaOps;
pub use luthier_kernels::NumberType;
pub use memory::{CudaBuffer, CudaCodes, CudaIndices};
pub use pinned::CudaParked;
pub use weight::CudaWeight;
