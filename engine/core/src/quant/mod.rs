//! Types that frozen weights are held in: what their bytes mean, how they are made, and how they become f32 again. Every device reads these.
//!
//! A matrix `[out_features, in_features]` of n numbers, row-major:
//!
//! | type  | bytes                                                              | scales, f32 beside them                                  |
//! |-------|--------------------------------------------------------------------|----------------------------------------------------------|
//! | bf16  | n · 2, little-endian                                               | none                                                     |
//! | f16   | n · 2, little-endian                                               | none                                                     |
//! | int8  | n signed codes                                                     | the largest magnitude of each row                        |
//! | nf4   | ⌈n / 2⌉: number 2j in the high half of byte j, 2j + 1 in the low   | the largest magnitude of each 64 numbers, ⌈n / 64⌉ of them |
//! | fp4   | as nf4's; the codes stand for other values ([`four_bit`])           | as nf4's                                                 |
//!
//! Blocks of 4-bit codes run over the flattened matrix, so they may cross the ends of rows; the last one may be shorter, and the low half of the last
//! byte unused. With double quantization the scales are 8-bit codes themselves: see [`NestedScales`].
//!
//! Bytes and scales are bitsandbytes' (`Linear4bit`, `Linear8bitLt`), formulas are those of its PyTorch kernels on the CPU.

mod convert;
mod dequantize;
mod dynamic_map;
mod form;
pub mod four_bit;
pub mod int8;
pub mod llm_int8;
mod nested;
pub mod nf4;
mod storage;

pub use convert::convert;
pub(crate) use dequantize::elements;
pub use dequantize::{dequantize, dequantize_rows};
pub use dynamic_map::{DYNAMIC_MAP, UNSIGNED_DYNAMIC_MAP};
pub(crate) use dynamic_map::{nearest_code, nearest_unsigned_code};
pub use form::MatrixForm;
pub(crate) use nested::NESTED_BLOCK;
pub use nested::NestedScales;
pub use storage::WeightStorage;

use std::sync::Arc;

/// What the codes of a tensor are multiplied with.
#[derive(Clone, Debug, PartialEq)]
pub enum Scales {
    /// Of int8: one for each row.
    Rows(Arc<[f32]>),
    /// Of 4-bit codes: one for each block of 64.
    Blocks(Arc<[f32]>),
    /// Of 4-bit codes with double quantization.
    Nested(Arc<NestedScales>),
}

impl Scales {
    /// Scales: rows or blocks.
    pub fn count(&self) -> usize {
        match self {
            Self::Rows(scales) | Self::Blocks(scales) => scales.len(),
            Self::Nested(nested) => nested.codes.len(),
        }
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Rows(scales) | Self::Blocks(scales) => size_of_val(&**scales),
            Self::Nested(nested) => nested.bytes(),
        }
    }
}

/// A magnitude's bits, which order as the magnitudes do, an infinity and then NaN above every number: a maximum that loses no fault.
#[inline(always)]
fn largest_magnitude(values: &[f32]) -> f32 {
    f32::from_bits(values.iter().map(|value| value.to_bits() & 0x7fff_ffff).max().unwrap_or(0))
}
