//! NF4: the 16 quantiles of a normal distribution, scaled to each block's largest magnitude (Dettmers et al., "QLoRA", 2023, appendix E).

use super::largest_magnitude;

/// Numbers that share a scale.
pub const BLOCK: usize = 64;

/// Code to value, ascending; bit for bit bitsandbytes' table.
#[rustfmt::skip]
pub const CODE_BOOK: [f32; 16] = from_bits([
    0xbf80_0000, 0xbf32_39b1, 0xbf06_6b30, 0xbeca_32a0, 0xbe91_a24d, 0xbe3d_353f, 0xbdba_7871, 0x0000_0000,
    0x3da2_faff, 0x3e24_cae3, 0x3e7c_04dd, 0x3ead_033a, 0x3ee1_a4b8, 0x3f10_07ab, 0x3f39_13b3, 0x3f80_0000,
]);

/// Midpoint i lies between the values i and i + 1, rounded to f32: a number above it has a code above i.
const MIDPOINTS: [f32; 15] = midpoints();

/// The least magnitude that a scale is taken for: below it the reciprocal would overflow.
const LEAST_SCALE: f32 = 1e-38;

const fn from_bits(bits: [u32; 16]) -> [f32; 16] {
    let mut values = [0.0; 16];
    let mut i = 0;
    while i < 16 {
        values[i] = f32::from_bits(bits[i]);
        i += 1;
    }
    values
}

const fn midpoints() -> [f32; 15] {
    let mut midpoints = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        midpoints[i] = (CODE_BOOK[i] + CODE_BOOK[i + 1]) / 2.0;
        i += 1;
    }
    midpoints
}

/// The code of a number that is scaled to [-1, 1]; as wide as what is compared, so that vectors need not be narrowed for each midpoint.
#[inline(always)]
fn code(scaled: f32) -> u32 {
    MIDPOINTS.iter().map(|midpoint| u32::from(scaled > *midpoint)).sum()
}

/// Quantizes blocks: `packed [⌈values / 2⌉]`, `absmax [⌈values / 64⌉]`. `values` begin with a block; only the last one may be partial.
///
/// As bitsandbytes' PyTorch kernel: whole blocks are multiplied by the f32 reciprocal of their largest magnitude, a partial one is divided by
/// it and stores it as at least 1e-38; a block of zeros has code 7 throughout. Where a block holds something that is not finite, its `absmax`
/// is not finite either, and its codes mean nothing.
pub fn quantize(values: &[f32], packed: &mut [u8], absmax: &mut [f32]) {
    assert!(packed.len() == values.len().div_ceil(2) && absmax.len() == values.len().div_ceil(BLOCK));
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { quantize_avx2(values, packed, absmax) };
    }
    quantize_blocks(values, packed, absmax);
}

/// [`quantize_blocks`], compiled for AVX2; each operation is rounded alone, so the bits are the same.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn quantize_avx2(values: &[f32], packed: &mut [u8], absmax: &mut [f32]) {
    quantize_blocks(values, packed, absmax);
}

#[inline(always)]
fn quantize_blocks(values: &[f32], packed: &mut [u8], absmax: &mut [f32]) {
    let blocks = values.chunks(BLOCK).zip(packed.chunks_mut(BLOCK / 2)).zip(absmax);
    for ((values, packed), absmax) in blocks {
        let largest = largest_magnitude(values);
        let mut codes = [code(0.0); BLOCK];
        if values.len() == BLOCK {
            *absmax = largest;
            let factor = 1.0 / largest.max(LEAST_SCALE);
            codes.iter_mut().zip(values).for_each(|(out, value)| *out = code(value * factor));
        } else {
            // `max` would take a NaN for the other operand.
            *absmax = if largest < LEAST_SCALE { LEAST_SCALE } else { largest };
            codes.iter_mut().zip(values).for_each(|(out, value)| *out = code(value / *absmax));
        }
        for (byte, pair) in packed.iter_mut().zip(codes.chunks_exact(2)) {
            *byte = (pair[0] << 4 | pair[1]) as u8;
        }
    }
}

/// The numbers from `start` of the flattened matrix on into `out`: the code's value times its block's scale, rounded once. `scale(b)` is
/// the scale of block b.
pub fn dequantize(packed: &[u8], scale: impl Fn(usize) -> f32, start: usize, out: &mut [f32]) {
    let (mut at, mut rest) = (start, out);
    while !rest.is_empty() {
        let block = at / BLOCK;
        let (out, after) = rest.split_at_mut(rest.len().min((block + 1) * BLOCK - at));
        let scale = scale(block);
        let end = at + out.len();
        // A range may begin with the low half of a byte.
        let (first, whole) = out.split_at_mut(at % 2);
        if let Some(first) = first.first_mut() {
            *first = CODE_BOOK[usize::from(packed[at / 2] & 15)] * scale;
        }
        multiply(&packed[at.div_ceil(2)..end.div_ceil(2)], scale, whole);
        (at, rest) = (end, after);
    }
}

/// The values of codes, two a byte, the last one perhaps alone, times a scale.
#[inline]
fn multiply(packed: &[u8], scale: f32, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, and with it SSSE3.
        let done = unsafe { multiply_avx2(packed, scale, out) };
        return multiply_portable(&packed[done / 2..], scale, &mut out[done..]);
    }
    multiply_portable(packed, scale, out);
}

fn multiply_portable(packed: &[u8], scale: f32, out: &mut [f32]) {
    for (pair, byte) in out.chunks_mut(2).zip(packed) {
        pair[0] = CODE_BOOK[usize::from(byte >> 4)] * scale;
        if let Some(second) = pair.get_mut(1) {
            *second = CODE_BOOK[usize::from(byte & 15)] * scale;
        }
    }
}

/// Byte `plane` of every value, as it lies in memory.
const fn code_book_bytes(plane: usize) -> [u8; 16] {
    let mut bytes = [0; 16];
    let mut i = 0;
    while i < 16 {
        bytes[i] = CODE_BOOK[i].to_le_bytes()[plane];
        i += 1;
    }
    bytes
}

/// As [`multiply_portable`], sixteen codes at a time; returns how many it has done, a multiple of sixteen.
///
/// A byte shuffle looks up one byte of sixteen values at once: four of them, zipped together, are the values.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn multiply_avx2(packed: &[u8], scale: f32, out: &mut [f32]) -> usize {
    use std::arch::x86_64::*;
    const PLANES: [[u8; 16]; 4] = [code_book_bytes(0), code_book_bytes(1), code_book_bytes(2), code_book_bytes(3)];
    // SAFETY: sixteen bytes each.
    let planes = PLANES.map(|plane| unsafe { _mm_loadu_si128(plane.as_ptr().cast()) });
    let (scales, low_half) = (_mm_set1_ps(scale), _mm_set1_epi8(15));
    let words = packed.as_chunks::<8>().0;
    let sixteens = out.as_chunks_mut::<16>().0;
    let done = 16 * words.len().min(sixteens.len());
    for (out, word) in sixteens.iter_mut().zip(words) {
        let bytes = _mm_cvtsi64_si128(i64::from_le_bytes(*word));
        let high = _mm_and_si128(_mm_srli_epi16::<4>(bytes), low_half);
        let codes = _mm_unpacklo_epi8(high, _mm_and_si128(bytes, low_half));
        let [a, b, c, d] = planes.map(|plane| _mm_shuffle_epi8(plane, codes));
        let (low_first, high_first) = (_mm_unpacklo_epi8(a, b), _mm_unpacklo_epi8(c, d));
        let (low_last, high_last) = (_mm_unpackhi_epi8(a, b), _mm_unpackhi_epi8(c, d));
        let values = [
            _mm_unpacklo_epi16(low_first, high_first),
            _mm_unpackhi_epi16(low_first, high_first),
            _mm_unpacklo_epi16(low_last, high_last),
            _mm_unpackhi_epi16(low_last, high_last),
        ];
        for (out, values) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
            // SAFETY: four numbers.
            unsafe { _mm_storeu_ps(out.as_mut_ptr(), _mm_mul_ps(_mm_castsi128_ps(values), scales)) };
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::MersenneTwister;

    /// Whole blocks and a partial one, of zeros, of tiny and of large numbers, with midpoints between values and their neighbours.
    #[test]
    fn every_instruction_set_quantizes_to_the_same_bits() {
        let mut random = MersenneTwister::new(5);
        let mut values: Vec<f32> = (0..BLOCK * 40 + 27).map(|_| random.uniform_f32(1.0)).collect();
        for (block, values) in values.chunks_mut(BLOCK).enumerate() {
            let factor = [1.0, 0.0, 1e-39, 3e30, 0.037][block % 5];
            if block % 3 == 0 {
                values[0] = 1.0;
                for (value, midpoint) in values[1..].iter_mut().zip(MIDPOINTS) {
                    *value = f32::from_bits(midpoint.to_bits() + block as u32 / 3 % 3 - 1);
                }
            }
            values.iter_mut().for_each(|value| *value *= factor);
        }
        let mut fast = (vec![0; values.len().div_ceil(2)], vec![0.0; values.len().div_ceil(BLOCK)]);
        let mut slow = fast.clone();
        quantize(&values, &mut fast.0, &mut fast.1);
        quantize_blocks(&values, &mut slow.0, &mut slow.1);
        assert_eq!(fast, slow);
        // The first block's midpoints have one bit less of magnitude: the negative ones lie above theirs, the positive ones below.
        assert_eq!(fast.0[..8], [0xf1, 0x23, 0x45, 0x67, 0x78, 0x9a, 0xbc, 0xde]);
    }

    #[test]
    fn every_byte_has_the_same_values_with_every_instruction_set() {
        let bytes: Vec<u8> = (0..=255).collect();
        for scale in [1.0, -0.37, 3e-39] {
            for (skip, len) in [(0, 512), (3, 506), (0, 511), (5, 37), (5, 15), (9, 1), (9, 0)] {
                let (mut fast, mut slow) = (vec![f32::NAN; len], vec![f32::NAN; len]);
                multiply(&bytes[skip..], scale, &mut fast);
                multiply_portable(&bytes[skip..], scale, &mut slow);
                assert!(fast.iter().zip(&slow).all(|(fast, slow)| fast.to_bits() == slow.to_bits()), "{skip} {len}");
                assert!(fast.iter().all(|value| !value.is_nan()));
            }
        }
        let mut out = [0.0; 3];
        multiply(&[0x7f, 0x08], 2.0, &mut out);
        assert_eq!(out, [0.0, 2.0, -2.0]);
    }
}
