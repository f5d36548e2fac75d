//! Signed 8-bit codes, scaled to each row's largest magnitude: the weights of LLM.int8 (Dettmers et al., 2022). Activations are not
//! quantized; [`super::llm_int8`] does that, for comparison.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::largest_magnitude;

/// The largest code.
pub(super) const LARGEST_CODE: f32 = 127.0;

/// Quantizes one row; returns its scale, the largest magnitude.
///
/// As bitsandbytes' PyTorch kernel: numbers are rounded to f16 first, then `code = round_ties_even(number · (127 · (1 / scale)))` in f32
/// (torch divides a number by a tensor so); a row of zeros has the scale 0. Its CUDA kernel divides fast, so that a code at a tie may differ by 1. Where a number is not finite as f16, nor is
/// the scale, and the codes mean nothing.
pub fn quantize_row(values: &mut [f32], codes: &mut [u8]) -> f32 {
    assert_eq!(values.len(), codes.len());
    let mut halves = vec![f16::ZERO; values.len()];
    halves.convert_from_f32_slice(values);
    halves.convert_to_f32_slice(values);
    let scale = largest_magnitude(values);
    let factor = if scale == 0.0 { 0.0 } else { LARGEST_CODE * (1.0 / scale) };
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        unsafe { round_avx2(values, factor, codes) };
        return scale;
    }
    round(values, factor, codes);
    scale
}

#[inline(always)]
fn round(values: &[f32], factor: f32, codes: &mut [u8]) {
    for (code, value) in codes.iter_mut().zip(values) {
        *code = ((*value * factor).round_ties_even() as i8).cast_unsigned();
    }
}

/// [`round`], compiled for AVX2, which rounds in one instruction.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn round_avx2(values: &[f32], factor: f32, codes: &mut [u8]) {
    round(values, factor, codes);
}

/// A row's numbers: `code · (scale · (1 / 127))` with 1/127 rounded to f32, so two roundings. bitsandbytes trains with these
/// (`MatMul8bitFp`); its `int8_vectorwise_dequant` multiplies in another order.
pub fn dequantize_row(codes: &[u8], scale: f32, out: &mut [f32]) {
    assert_eq!(codes.len(), out.len());
    let factor = scale * (1.0 / LARGEST_CODE);
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { multiply_avx2(codes, factor, out) };
    }
    multiply(codes, factor, out);
}

#[inline(always)]
fn multiply(codes: &[u8], factor: f32, out: &mut [f32]) {
    for (out, code) in out.iter_mut().zip(codes) {
        *out = f32::from(code.cast_signed()) * factor;
    }
}

/// [`multiply`], compiled for AVX2; each product is rounded alone, so the bits are the same.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn multiply_avx2(codes: &[u8], factor: f32, out: &mut [f32]) {
    multiply(codes, factor, out);
}
