//! Types of 4-bit codes: sixteen values, scaled to each block's largest magnitude.

/// Numbers that share a scale.
pub const BLOCK: usize = 64;

/// What codes stand for.
#[derive(Debug)]
pub struct CodeBook {
    /// bitsandbytes' name, such as `nf4`.
    pub name: &'static str,
    /// Code to value.
    pub values: [f32; 16],
    /// Byte `p` of every value, as it lies in memory.
    planes: [[u8; 16]; 4],
}

/// The 16 quantiles of a normal distribution, ascending (Dettmers et al., "QLoRA", 2023, appendix E); bit for bit bitsandbytes' table.
#[rustfmt::skip]
pub static NF4: CodeBook = CodeBook::new("nf4", [
    0xbf80_0000, 0xbf32_39b1, 0xbf06_6b30, 0xbeca_32a0, 0xbe91_a24d, 0xbe3d_353f, 0xbdba_7871, 0x0000_0000,
    0x3da2_faff, 0x3e24_cae3, 0x3e7c_04dd, 0x3ead_033a, 0x3ee1_a4b8, 0x3f10_07ab, 0x3f39_13b3, 0x3f80_0000,
]);

/// A sign, and 0, 1/16, 8, 12, 4, 6, 2, 3 twelfths; bit for bit bitsandbytes' table.
#[rustfmt::skip]
pub static FP4: CodeBook = CodeBook::new("fp4", [
    0x0000_0000, 0x3baa_aaab, 0x3f2a_aaab, 0x3f80_0000, 0x3eaa_aaab, 0x3f00_0000, 0x3e2a_aaab, 0x3e80_0000,
    0x0000_0000, 0xbbaa_aaab, 0xbf2a_aaab, 0xbf80_0000, 0xbeaa_aaab, 0xbf00_0000, 0xbe2a_aaab, 0xbe80_0000,
]);

impl CodeBook {
    const fn new(name: &'static str, bits: [u32; 16]) -> Self {
        let (mut values, mut planes) = ([0.0; 16], [[0; 16]; 4]);
        let mut code = 0;
        while code < 16 {
            values[code] = f32::from_bits(bits[code]);
            let bytes = bits[code].to_le_bytes();
            let mut plane = 0;
            while plane < 4 {
                planes[plane][code] = bytes[plane];
                plane += 1;
            }
            code += 1;
        }
        Self { name, values, planes }
    }
}

/// The numbers from `start` of the flattened matrix on into `out`: the code's value times its block's scale, rounded once. `scale(b)` is
/// the scale of block b.
pub fn dequantize(book: &CodeBook, packed: &[u8], scale: impl Fn(usize) -> f32, start: usize, out: &mut [f32]) {
    let (mut at, mut rest) = (start, out);
    while !rest.is_empty() {
        let block = at / BLOCK;
        let (out, after) = rest.split_at_mut(rest.len().min((block + 1) * BLOCK - at));
        let scale = scale(block);
        let end = at + out.len();
        // A range may begin with the low half of a byte.
        let (first, whole) = out.split_at_mut(at % 2);
        if let Some(first) = first.first_mut() {
            *first = book.values[usize::from(packed[at / 2] & 15)] * scale;
        }
        multiply(book, &packed[at.div_ceil(2)..end.div_ceil(2)], scale, whole);
        (at, rest) = (end, after);
    }
}

/// The values of codes, two a byte, the last one perhaps alone, times a scale.
#[inline]
fn multiply(book: &CodeBook, packed: &[u8], scale: f32, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, and with it SSSE3.
        let done = unsafe { multiply_avx2(book, packed, scale, out) };
        return multiply_portable(book, &packed[done / 2..], scale, &mut out[done..]);
    }
    multiply_portable(book, packed, scale, out);
}

fn multiply_portable(book: &CodeBook, packed: &[u8], scale: f32, out: &mut [f32]) {
    for (pair, byte) in out.chunks_mut(2).zip(packed) {
        pair[0] = book.values[usize::from(byte >> 4)] * scale;
        if let Some(second) = pair.get_mut(1) {
            *second = book.values[usize::from(byte & 15)] * scale;
        }
    }
}

/// As [`multiply_portable`], sixteen codes at a time; returns how many it has done, a multiple of sixteen.
///
/// A byte shuffle looks up one byte of sixteen values at once: four of them, zipped together, are the values.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn multiply_avx2(book: &CodeBook, packed: &[u8], scale: f32, out: &mut [f32]) -> usize {
    use std::arch::x86_64::*;
    // SAFETY: sixteen bytes each.
    let planes = book.planes.map(|plane| unsafe { _mm_loadu_si128(plane.as_ptr().cast()) });
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

    #[test]
    fn every_byte_has_the_same_values_with_every_instruction_set() {
        let bytes: Vec<u8> = (0..=255).collect();
        for (book, scale) in [(&NF4, 1.0), (&NF4, -0.37), (&NF4, 3e-39), (&FP4, 0.37)] {
            for (skip, len) in [(0, 512), (3, 506), (0, 511), (5, 37), (5, 15), (9, 1), (9, 0)] {
                let (mut fast, mut slow) = (vec![f32::NAN; len], vec![f32::NAN; len]);
                multiply(book, &bytes[skip..], scale, &mut fast);
                multiply_portable(book, &bytes[skip..], scale, &mut slow);
                assert!(fast.iter().zip(&slow).all(|(fast, slow)| fast.to_bits() == slow.to_bits()), "{skip} {len}");
                assert!(fast.iter().all(|value| !value.is_nan()));
            }
        }
        let mut out = [0.0; 3];
        multiply(&NF4, &[0x7f, 0x08], 2.0, &mut out);
        assert_eq!(out, [0.0, 2.0, -2.0]);
        multiply(&FP4, &[0x3d, 0x70], 2.0, &mut out);
        assert_eq!(out, [2.0, -1.0, 0.5]);
    }
}
