//! Launchers of the optimizer.

use crate::error::Result;
use crate::stream::{DevicePointer, Launch, Stream, launch};

/// Blocks of the sum of squares; fixed, so that sums are the same everywhere.
const NORM_BLOCKS: usize = 512;
/// Scratch of [`Stream::clip_norm`]: the sums, the norm, the factor.
pub const NORM_SCRATCH_BYTES: usize = (NORM_BLOCKS + 2) * 8;

/// Factors of one AdamW update; laid out as the kernel's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AdamWFactors {
    /// 1 − learning rate · weight decay
    pub decay: f32,
    /// 1 − β1
    pub first_weight: f32,
    pub keep_second: f32,
    /// 1 − β2
    pub second_weight: f32,
    /// learning rate / (1 − β1ᵗ)
    pub step_size: f32,
    /// √(1 − β2ᵗ)
    pub root_correction: f32,
    pub epsilon: f32,
}

impl Stream {
    /// Multiplies `values [len]` f32 by `scale`, and where `max_norm` is positive by min(1, max_norm / (norm + 1e-6)), with the norm of the
    /// scaled values; returns where that is put, f64.
    ///
    /// # Safety
    /// The values are there, and [`NORM_SCRATCH_BYTES`] of `scratch`.
    pub unsafe fn clip_norm(
        &self,
        values: DevicePointer,
        len: usize,
        [scale, max_norm]: [f64; 2],
        scratch: DevicePointer,
    ) -> Result<DevicePointer> {
        let (norm, factor) = (scratch + NORM_BLOCKS as u64 * 8, scratch + (NORM_BLOCKS as u64 + 1) * 8);
        // SAFETY: the caller's promise; the kernels' parameters in order.
        unsafe {
            launch!(self, "sum_of_squares", Launch::blocks(NORM_BLOCKS, 256), values, len, scratch)?;
            let (one, count) = (Launch::blocks(1, 1), NORM_BLOCKS as i32);
            launch!(self, "finish_norm", one, scratch, count, scale, max_norm, norm, factor)?;
            if max_norm > 0.0 || scale != 1.0 {
                launch!(self, "scale_by", Launch::numbers(len, 4), values, len, factor)?;
            }
        }
        Ok(norm)
    }

    /// torch's AdamW over flat buffers of `len` f32.
    ///
    /// # Safety
    /// The buffers are so long.
    pub unsafe fn adamw(
        &self,
        factors: AdamWFactors,
        len: usize,
        parameters: DevicePointer,
        gradients: DevicePointer,
        [first_moments, second_moments]: [DevicePointer; 2],
    ) -> Result<()> {
        let launch = Launch::numbers(len, 4);
        // SAFETY: the caller's promise; the kernel's parameters in order.
        unsafe { launch!(self, "adamw", launch, factors, len, parameters, gradients, first_moments, second_moments) }
    }
}
