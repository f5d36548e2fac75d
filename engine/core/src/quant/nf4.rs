//! NF4: the 16 quantiles of a normal distribution, scaled to each block's largest magnitude (Dettmers et al., "QLoRA", 2023, appendix E).

use super::four_bit::{BLOCK, NF4};
use super::largest_magnitude;

/// Midpoint i lies between the values i and i + 1, rounded to f32: a number above it has a code above i.
const MIDPOINTS: [f32; 15] = midpoints();

/// The least magnitude that a scale is taken for: below it the reciprocal would overflow.
const LEAST_SCALE: f32 = 1e-38;

const fn midpoints() -> [f32; 15] {
    let mut midpoints = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        midpoints[i] = (NF4.values[i] + NF4.values[i + 1]) / 2.0;
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

/// Midpoints that a number is compared with, one after another: each halves what is left of the sixteen codes. Step k's is found by the k bits
/// of the code that are known.
#[cfg(target_arch = "x86_64")]
const STEPS: [[f32; 8]; 4] = steps();

#[cfg(target_arch = "x86_64")]
const fn steps() -> [[f32; 8]; 4] {
    let mut steps = [[0.0; 8]; 4];
    let mut step = 0;
    while step < 4 {
        let mut known = 0;
        while known < 1 << step {
            steps[step][known] = MIDPOINTS[(2 * known + 1) * (8 >> step) - 1];
            known += 1;
        }
        step += 1;
    }
    steps
}

/// As [`quantize_blocks`]; each operation is rounded alone, so the bits are the same.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn quantize_avx2(values: &[f32], packed: &mut [u8], absmax: &mut [f32]) {
    use std::arch::x86_64::*;
    // SAFETY: eight numbers each.
    let steps = STEPS.map(|step| unsafe { _mm256_loadu_ps(step.as_ptr()) });
    let load = |eight: &[f32; 8]| unsafe { _mm256_loadu_ps(eight.as_ptr()) };
    let (blocks, partial) = values.as_chunks::<BLOCK>();
    let (packed, packed_partial) = packed.split_at_mut(blocks.len() * BLOCK / 2);
    let (absmax, absmax_partial) = absmax.split_at_mut(blocks.len());
    for ((values, packed), absmax) in blocks.iter().zip(packed.as_chunks_mut::<{ BLOCK / 2 }>().0).zip(absmax) {
        let eights = values.as_chunks::<8>().0;
        let magnitude = _mm256_set1_epi32(0x7fff_ffff);
        let largest = eights.iter().fold(_mm256_setzero_si256(), |largest, eight| {
            _mm256_max_epu32(largest, _mm256_and_si256(_mm256_castps_si256(load(eight)), magnitude))
        });
        let mut lanes = [0u32; 8];
        // SAFETY: eight numbers.
        unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), largest) };
        *absmax = f32::from_bits(lanes.into_iter().max().unwrap_or(0));
        let factor = _mm256_set1_ps(1.0 / absmax.max(LEAST_SCALE));
        let codes = |eight: &[f32; 8]| {
            let scaled = _mm256_mul_ps(load(eight), factor);
            steps.iter().fold(_mm256_setzero_si256(), |code, step| {
                let midpoint = _mm256_permutevar8x32_ps(*step, code);
                let above = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_GT_OQ>(scaled, midpoint));
                // A comparison that holds is −1.
                _mm256_sub_epi32(_mm256_add_epi32(code, code), above)
            })
        };
        // Pairs of 32 codes, the first of each pair in the high half of 16 bits' low byte.
        let pairs = |eights: &[[f32; 8]]| {
            let low = _mm256_packs_epi32(codes(&eights[0]), codes(&eights[1]));
            let high = _mm256_packs_epi32(codes(&eights[2]), codes(&eights[3]));
            // Packing works on each half of a vector alone: groups of four codes are put back in order.
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
            _mm256_maddubs_epi16(bytes, _mm256_set1_epi16(0x0110))
        };
        let bytes = _mm256_packus_epi16(pairs(&eights[..4]), pairs(&eights[4..]));
        let bytes = _mm256_permute4x64_epi64::<0b11_01_10_00>(bytes);
        // SAFETY: 32 bytes.
        unsafe { _mm256_storeu_si256(packed.as_mut_ptr().cast(), bytes) };
    }
    quantize_blocks(partial, packed_partial, absmax_partial);
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
}
