//! Launcher of uniform noise.

use crate::error::Result;
use crate::stream::{DevicePointer, Launch, NumberType, Stream, launch};

/// Noise; laid out as the kernel's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct UniformNoise {
    /// Key of Philox4x32-10.
    pub key: [u32; 2],
    /// The counter's upper three words; the lowest is an array's number over 4.
    pub stream: [u32; 3],
    pub bound: f32,
}

impl Stream {
    /// Adds noise to `len` numbers, up to 2³⁴.
    ///
    /// # Safety
    /// There are so many numbers of this type.
    pub unsafe fn add_noise(&self, kind: NumberType, noise: UniformNoise, len: usize, to: DevicePointer) -> Result<()> {
        let name = format!("add_noise_{}", kind.name());
        // SAFETY: the caller's promise; the kernel's parameters in order.
        unsafe { launch!(self, &name, Launch::numbers(len, 4), noise, len, to) }
    }
}
