//! The processor.

mod adamw_8bit;
mod attention;
mod attention_band;
mod attention_panels;
mod cached_attention;
pub mod decode;
mod decode_attention;
pub mod decode_cache;
mod decode_dot;
#[cfg(target_arch = "x86_64")]
mod decode_dot_x86;
mod decode_math;
pub mod decode_model;
mod decode_prefill;
mod decode_quantize;
mod decode_rows;
mod device;
mod dropout;
mod kernel;
mod lanes;
mod loss;
mod memory;
mod noise;
mod parallel;
mod pool;
mod prices;
mod product;
mod product_blocked;
mod real;
mod rows;
mod weight;

pub use device::CpuOps;
pub use memory::{CpuBuffer, CpuCodes};
pub use real::Real;
pub use weight::CpuWeight;
