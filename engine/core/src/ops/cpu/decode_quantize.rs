//! A vector of activations rounded to 8 bits in blocks of 32, the right-hand side of the quantized products of decoding.
//!
//! Block b: `d = max|x| / 127`, `q = round_ties_even(x * 127 / max|x|)`, and `s = d * Σ q`, which a weight block with an offset needs.
//! Scales stay f32 (llama.cpp rounds them to f16). Results are the same bits on every instruction set.

/// Elements that share a scale; the block size of every GGML type with blocks of 32.
pub(super) const BLOCK: usize = 32;

/// Scale of one block of activations and scale times the sum of its integers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub(super) struct BlockScale {
    pub scale: f32,
    pub scaled_sum: f32,
}

/// A quantized vector; its length is a multiple of [`BLOCK`].
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct QuantizedVector {
    pub values: Vec<i8>,
    pub scales: Vec<BlockScale>,
}

impl QuantizedVector {
    /// Overwrites the vector with `x`, reusing its memory. A block with a value that is not finite gets the scale NaN, so that the fault
    /// shows in the result instead of vanishing.
    pub fn quantize(&mut self, x: &[f32]) {
        debug_assert!(x.len().is_multiple_of(BLOCK));
        self.values.resize(x.len(), 0);
        self.scales.resize(x.len() / BLOCK, BlockScale::default());
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2, and `resize` made the outputs as long as `x` calls for.
            unsafe { quantize_avx2(x, &mut self.values, &mut self.scales) };
            return;
        }
        quantize_portable(x, &mut self.values, &mut self.scales);
    }
}

/// Bits of the largest magnitude to (scale, factor). Bits at or above infinity's mean that the block held an infinity or a NaN.
fn block_factors(magnitude_bits: u32) -> (f32, f32) {
    const INFINITY_BITS: u32 = 0x7f80_0000;
    match magnitude_bits {
        0 => (0.0, 0.0),
        INFINITY_BITS.. => (f32::NAN, 0.0),
        bits => {
            let largest = f32::from_bits(bits);
            let factor = 127.0 / largest;
            // Magnitudes below 127 / f32::MAX have no finite factor; they are nothing beside any other activation.
            if factor.is_finite() { (largest / 127.0, factor) } else { (0.0, 0.0) }
        }
    }
}

fn quantize_portable(x: &[f32], values: &mut [i8], scales: &mut [BlockScale]) {
    for ((x, values), scales) in x.chunks_exact(BLOCK).zip(values.chunks_exact_mut(BLOCK)).zip(scales) {
        let magnitude_bits = x.iter().map(|x| x.to_bits() & 0x7fff_ffff).max().unwrap_or(0);
        let (scale, factor) = block_factors(magnitude_bits);
        let mut sum = 0i32;
        for (value, x) in values.iter_mut().zip(x) {
            // The cast saturates and turns NaN into 0; the scale of such a block is NaN already.
            *value = (x * factor).round_ties_even() as i8;
            sum += i32::from(*value);
        }
        *scales = BlockScale { scale, scaled_sum: scale * sum as f32 };
    }
}

/// As [`quantize_portable`], 8 lanes at a time.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn quantize_avx2(x: &[f32], values: &mut [i8], scales: &mut [BlockScale]) {
    use std::arch::x86_64::*;
    let sign_off = _mm256_set1_epi32(0x7fff_ffff);
    for ((x, values), scales) in x.chunks_exact(BLOCK).zip(values.chunks_exact_mut(BLOCK)).zip(scales) {
        // SAFETY: the chunk has 32 floats, that is 4 loads of 8.
        let lanes: [__m256; 4] = std::array::from_fn(|i| unsafe { _mm256_loadu_ps(x.as_ptr().add(8 * i)) });
        let magnitudes = lanes.map(|lane| _mm256_and_si256(_mm256_castps_si256(lane), sign_off));
        let pairs = (_mm256_max_epu32(magnitudes[0], magnitudes[1]), _mm256_max_epu32(magnitudes[2], magnitudes[3]));
        let eight = _mm256_max_epu32(pairs.0, pairs.1);
        let four = _mm_max_epu32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256::<1>(eight));
        let two = _mm_max_epu32(four, _mm_shuffle_epi32::<0b0100_1110>(four));
        let one = _mm_max_epu32(two, _mm_shuffle_epi32::<0b1011_0001>(two));
        let (scale, factor) = block_factors(_mm_cvtsi128_si32(one) as u32);
        let factors = _mm256_set1_ps(factor);
        // Conversion rounds to nearest, ties to even. NaN and infinity convert to the smallest integer; mask them to 0 as the cast does.
        let finite = _mm256_set1_epi32(if scale.is_nan() { 0 } else { -1 });
        let integers = lanes.map(|lane| _mm256_and_si256(_mm256_cvtps_epi32(_mm256_mul_ps(lane, factors)), finite));
        let low = _mm256_packs_epi32(integers[0], integers[1]);
        let high = _mm256_packs_epi32(integers[2], integers[3]);
        // Packing works on 128-bit halves: put the groups of four bytes back in order.
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        let bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
        // SAFETY: the chunk has 32 bytes.
        unsafe { _mm256_storeu_si256(values.as_mut_ptr().cast(), bytes) };
        let sums =
            _mm256_add_epi32(_mm256_add_epi32(integers[0], integers[1]), _mm256_add_epi32(integers[2], integers[3]));
        let four = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
        let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b0100_1110>(four));
        let one = _mm_add_epi32(two, _mm_shuffle_epi32::<0b1011_0001>(two));
        *scales = BlockScale { scale, scaled_sum: scale * _mm_cvtsi128_si32(one) as f32 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<f32> {
        let mut state = 1u32;
        let mut x: Vec<f32> = (0..8 * BLOCK)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect();
        x[..BLOCK].fill(0.0);
        // Exact ties: the factor is 1, so these round to even.
        x[BLOCK] = 127.0;
        x[BLOCK + 1] = 2.5;
        x[BLOCK + 2] = -3.5;
        x[2 * BLOCK] = 1e-42;
        x[2 * BLOCK + 1..3 * BLOCK].fill(0.0);
        x
    }

    #[test]
    fn values_are_within_half_a_step() {
        let x = samples();
        let mut quantized = QuantizedVector::default();
        quantized.quantize(&x);
        for (i, x) in x.iter().enumerate() {
            let scale = quantized.scales[i / BLOCK].scale;
            let back = f32::from(quantized.values[i]) * scale;
            assert!((back - x).abs() <= 0.5001 * scale + 1e-38, "element {i}: {x} became {back}");
        }
        assert_eq!(&quantized.values[BLOCK..BLOCK + 3], [127, 2, -4]);
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let x = samples();
        let mut fast = QuantizedVector::default();
        fast.quantize(&x);
        let mut slow = fast.clone();
        slow.values.fill(1);
        quantize_portable(&x, &mut slow.values, &mut slow.scales);
        assert_eq!(fast, slow);
    }

    #[test]
    fn values_that_are_not_finite_poison_their_block_only() {
        for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![1.0; 2 * BLOCK];
            x[5] = poison;
            let mut quantized = QuantizedVector::default();
            quantized.quantize(&x);
            assert!(quantized.scales[0].scale.is_nan() && quantized.scales[0].scaled_sum.is_nan());
            assert_eq!(quantized.scales[1].scaled_sum, 32.0);
            assert!(quantized.values[..BLOCK].iter().all(|value| *value == 0 || *value == 127 || *value == -127));
        }
    }
}
