//! CUDA kernels and their launchers. Everything takes raw device pointers and goes to one stream, beside which copies may go to another; sizes
//! are the caller's promise.

mod attention;
mod cached_attention;
mod copies;
mod cudnn;
mod dequantize;
mod dropout;
mod elementwise;
mod error;
mod linear;
mod low_rank;
mod low_rank_sizes;
mod matmul;
mod nccl;
mod noise;
mod optimizer;
mod pinned;
mod stream;

pub use attention::{AttentionArrays, AttentionBackwardArrays, AttentionSizes, MAX_HEAD_DIM};
pub use cached_attention::{CachedAttentionArrays, CachedAttentionSizes};
pub use copies::{CopyStream, Event};
pub use cudnn::Cudnn;
pub use dequantize::BlockScales;
pub use dropout::DropoutMask;
pub use error::{CudaError, Result};
pub use linear::{LinearFinish, LinearGate, LinearProduct, LinearRope, LinearSegment};
pub use low_rank::{LowRankExpansion, LowRankGradients, LowRankLayer};
pub use low_rank_sizes::LowRankSizes;
pub use matmul::{Multiplier, Operand, Product};
pub use nccl::{Communicator, NcclError, nccl_problem, new_nccl_id};
pub use noise::UniformNoise;
pub use optimizer::{AdamW8bitFactors, AdamW8bitMoments, AdamWFactors, NORM_SCRATCH_BYTES};
pub use pinned::PinnedMemory;
pub use stream::{DevicePointer, NumberType, Stream};
