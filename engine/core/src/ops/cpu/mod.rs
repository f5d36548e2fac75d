//! The processor.

pub mod decode;
mod decode_attention;
pub mod decode_cache;
mod decode_dot;
#[cfg(target_arch = "x86_64")]
mod decode_dot_x86;
mod decode_math;
pub mod decode_model;
mod decode_pool;
mod decode_prefill;
mod decode_quantize;
mod decode_rows;
