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

/// Factors of one update with moments in 8 bits; laid out as the kernel's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AdamW8bitFactors {
    /// 1 − learning rate · weight decay
    pub decay: f32,
    /// β1
    pub keep_first: f32,
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

/// Where moments in 8 bits lie: codes `[len]`, scales `[⌈len / 256⌉]` f32.
#[derive(Clone, Copy, Debug)]
pub struct AdamW8bitMoments {
    pub first_codes: DevicePointer,
    pub second_codes: DevicePointer,
    pub first_scales: DevicePointer,
    pub second_scales: DevicePointer,
}

/// Numbers that share a scale.
const MOMENT_BLOCK: usize = 256;

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

    /// AdamW over `len` f32 with moments in 8 bits.
    ///
    /// # Safety
    /// The buffers are so long.
    pub unsafe fn adamw_8bit(
        &self,
        factors: AdamW8bitFactors,
        len: usize,
        parameters: DevicePointer,
        gradients: DevicePointer,
        moments: AdamW8bitMoments,
    ) -> Result<()> {
        let AdamW8bitMoments { first_codes, second_codes, first_scales, second_scales } = moments;
        let grid = Launch::blocks(len.div_ceil(MOMENT_BLOCK), MOMENT_BLOCK as u32);
        // SAFETY: the caller's promise; the kernel's parameters in order.
        unsafe {
            launch!(
                self,
                "adamw_8bit",
                grid,
                factors,
                len,
                parameters,
                gradients,
                first_codes,
                second_codes,
                first_scales,
                second_scales
            )
        }
    }
}
