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
