//! Launcher of dropout.

use crate::error::Result;
use crate::stream::{DevicePointer, Launch, NumberType, Stream, launch};

/// A mask; laid out as the kernel's.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DropoutMask {
    /// Key of Philox4x32-10.
    pub key: [u32; 2],
    /// The counter's upper three words; the lowest is an array's number over 4.
    pub stream: [u32; 3],
    /// Words below it drop their numbers.
    pub threshold: u32,
    /// What kept numbers are multiplied by.
    pub scale: f32,
}

impl Stream {
    /// `out = x ∘ mask · scale`, added to what `out` holds where `accumulate`; `len` numbers, up to 2³⁴.
    ///
    /// # Safety
    /// Both hold so many numbers of this type.
    pub unsafe fn dropout(
        &self,
        kind: NumberType,
        mask: DropoutMask,
        len: usize,
        x: DevicePointer,
        accumulate: bool,
        out: DevicePointer,
    ) -> Result<()> {
        let name = format!("dropout_{}{}", if accumulate { "add_" } else { "" }, kind.name());
        // SAFETY: the caller's promise; the kernel's parameters in order.
        unsafe { launch!(self, &name, Launch::numbers(len, 4), mask, len, x, out) }
    }
}
