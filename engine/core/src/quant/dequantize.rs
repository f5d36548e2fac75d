//! Any stored type to f32.

use candle_core::quantized::{GgmlDType, GgmlType, k_quants};
use half::f16;

use super::{Scales, four_bit, int8};
use crate::tensor::{HostTensor, StoredType};

/// A whole tensor.
pub fn dequantize(tensor: &HostTensor) -> Vec<f32> {
    let mut out = vec![0.0; tensor.shape.iter().product()];
    match tensor.stored {
        stored if stored.is_coded() => dequantize_rows(tensor, 0, &mut out),
        other => dequantize_blocks(block_type(other), tensor.bytes.as_slice(), &mut out),
    }
    out
}

/// Rows `first..` of a matrix into `out`, a whole number of rows. Panics where bytes or scales do not fit the shape, which whoever makes the
/// tensor rules out.
pub fn dequantize_rows(matrix: &HostTensor, first: usize, out: &mut [f32]) {
    let (bytes, columns) = (matrix.bytes.as_slice(), matrix.shape[1]);
    let start = first * columns;
    match (matrix.stored.code_book(), &matrix.scales) {
        (None, Some(Scales::Rows(scales))) => {
            let codes = bytes[start..].chunks_exact(columns);
            for ((out, codes), scale) in out.chunks_exact_mut(columns).zip(codes).zip(&scales[first..]) {
                int8::dequantize_row(codes, *scale, out);
            }
        }
        (Some(book), Some(Scales::Blocks(scales))) => {
            four_bit::dequantize(book, bytes, |block| scales[block], start, out);
        }
        (Some(book), Some(Scales::Nested(nested))) => {
            four_bit::dequantize(book, bytes, |block| nested.scale(block), start, out);
        }
        (_, scales) if matrix.stored.is_coded() => {
            panic!("a tensor of {} has other scales: {:?}", matrix.stored.name(), scales.as_ref().map(Scales::count));
        }
        _ => {
            let row_bytes = bytes.len() / matrix.shape[0];
            let rows = out.len() / columns;
            dequantize_blocks(block_type(matrix.stored), &bytes[first * row_bytes..(first + rows) * row_bytes], out);
        }
    }
}

/// The type as candle names it. Codes whose scales lie apart have none.
fn block_type(stored: StoredType) -> GgmlDType {
    match stored {
        StoredType::F32 => GgmlDType::F32,
        StoredType::F16 => GgmlDType::F16,
        StoredType::BF16 => GgmlDType::BF16,
        StoredType::Ggml(kind) => kind,
        StoredType::Int8 | StoredType::Nf4 | StoredType::Fp4 => {
            panic!("{} has no blocks with scales of their own", stored.name())
        }
    }
}

/// Whole blocks. `bytes` must hold exactly the blocks of `out`.
fn dequantize_blocks(kind: GgmlDType, bytes: &[u8], out: &mut [f32]) {
    fn with<T: GgmlType>(bytes: &[u8], out: &mut [f32]) {
        T::to_float(elements::<T>(bytes), out);
    }
    match kind {
        GgmlDType::F32 => with::<f32>(bytes, out),
        GgmlDType::F16 => with::<f16>(bytes, out),
        GgmlDType::BF16 => bf16_to_f32(bytes, out),
        GgmlDType::Q4_0 => with::<k_quants::BlockQ4_0>(bytes, out),
        GgmlDType::Q4_1 => with::<k_quants::BlockQ4_1>(bytes, out),
        GgmlDType::Q5_0 => with::<k_quants::BlockQ5_0>(bytes, out),
        GgmlDType::Q5_1 => with::<k_quants::BlockQ5_1>(bytes, out),
        GgmlDType::Q8_0 => with::<k_quants::BlockQ8_0>(bytes, out),
        GgmlDType::Q8_1 => with::<k_quants::BlockQ8_1>(bytes, out),
        GgmlDType::Q2K => with::<k_quants::BlockQ2K>(bytes, out),
        GgmlDType::Q3K => with::<k_quants::BlockQ3K>(bytes, out),
        GgmlDType::Q4K => with::<k_quants::BlockQ4K>(bytes, out),
        GgmlDType::Q5K => with::<k_quants::BlockQ5K>(bytes, out),
        GgmlDType::Q6K => with::<k_quants::BlockQ6K>(bytes, out),
        GgmlDType::Q8K => with::<k_quants::BlockQ8K>(bytes, out),
    }
}

/// bf16 is the upper half of f32. Whole vectors at a time, unlike `half`'s, which makes a NaN quiet.
fn bf16_to_f32(bytes: &[u8], out: &mut [f32]) {
    let numbers = bytes.as_chunks::<2>().0;
    assert_eq!(numbers.len(), out.len(), "a number for each pair of bytes");
    out.iter_mut()
        .zip(numbers)
        .for_each(|(out, bytes)| *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16));
}

/// The bytes as elements or blocks of plain numbers. Panics where address or length do not fit, which the readers rule out.
pub(crate) fn elements<T: GgmlType>(bytes: &[u8]) -> &[T] {
    // SAFETY: `T` is numbers or a `repr(C)` block of numbers without padding, for which every bit pattern is valid.
    let (before, elements, after) = unsafe { bytes.align_to::<T>() };
    assert!(before.is_empty() && after.is_empty(), "tensor bytes are not aligned to whole elements");
    elements
}
