//! Launchers of dequantization.

use crate::error::Result;
use crate::stream::{DevicePointer, Launch, NumberType, Stream, launch};

/// Scales of nf4's blocks of 64 numbers; laid out as the kernel's. Null pointers where the other form is used.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct BlockScales {
    /// f32, one for each block; null: nested.
    pub plain: DevicePointer,
    /// 8-bit codes, one for each block.
    pub codes: DevicePointer,
    /// f32, one for each 256 codes.
    pub absmax: DevicePointer,
    /// 256 f32.
    pub code_book: DevicePointer,
    pub offset: f32,
}

impl Stream {
    /// `to [len]` = the values of nf4 codes, two a byte, times their blocks' scales. `values`: the 16 values, f32.
    ///
    /// # Safety
    /// Pointers hold numbers of these types and sizes.
    pub unsafe fn dequantize_nf4(
        &self,
        kind: NumberType,
        len: usize,
        packed: DevicePointer,
        scales: BlockScales,
        values: DevicePointer,
        to: DevicePointer,
    ) -> Result<()> {
        let name = format!("dequantize_nf4_{}", kind.name());
        // SAFETY: the caller's promise; the kernel's parameters in order, here and below.
        unsafe { launch!(self, &name, Launch::numbers(len, 8), len, packed, scales, values, to) }
    }

    /// `to [rows, columns]` = signed 8-bit codes times `scales [rows]` / 127.
    ///
    /// # Safety
    /// As [`Self::dequantize_nf4`].
    pub unsafe fn dequantize_int8(
        &self,
        kind: NumberType,
        [rows, columns]: [usize; 2],
        codes: DevicePointer,
        scales: DevicePointer,
        to: DevicePointer,
    ) -> Result<()> {
        let name = format!("dequantize_int8_{}", kind.name());
        let launch = Launch::numbers(rows * columns, 16 / kind.bytes());
        // SAFETY: as above.
        unsafe { launch!(self, &name, launch, rows, columns as i32, codes, scales, to) }
    }

    /// `to [rows, width]` = the values of GGML blocks: the rows with the numbers in `numbers`, or the first `rows` where it is null.
    /// `block_type`: as llama.cpp writes it, such as `q4_k`.
    ///
    /// # Safety
    /// As [`Self::dequantize_nf4`]; rows are whole blocks, and `blocks` begins at a multiple of 8 bytes.
    pub unsafe fn dequantize_blocks(
        &self,
        block_type: &str,
        kind: NumberType,
        [rows, width]: [usize; 2],
        blocks: DevicePointer,
        numbers: DevicePointer,
        to: DevicePointer,
    ) -> Result<()> {
        /// Numbers of a thread.
        const RUN: usize = 8;
        let name = format!("dequantize_{block_type}_{}", kind.name());
        let launch = Launch::numbers(rows * width, RUN);
        // SAFETY: as above.
        unsafe { launch!(self, &name, launch, rows * width / RUN, blocks, numbers, width / RUN, to) }
    }
}
