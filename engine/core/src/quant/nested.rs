//! Double quantization: the scales of blocks of 4-bit codes as 8-bit codes (Dettmers et al., "QLoRA", 2023, section 3).

use rayon::prelude::*;

use super::dynamic_map::{DYNAMIC_MAP, nearest_code};
use super::largest_magnitude;

/// Scales that share a scale of their own.
pub const NESTED_BLOCK: usize = 256;

/// As [`super::nf4`]'s: what its reciprocal is taken of.
const LEAST_SCALE: f32 = 1e-38;

/// Blocks of one piece of work: enough that taking it costs nothing beside it.
const BLOCKS_AT_ONCE: usize = 16;

/// The scales of a tensor's blocks, less their mean, in blocks of 256.
#[derive(Clone, Debug, PartialEq)]
pub struct NestedScales {
    /// One for each block of 64 numbers.
    pub codes: Vec<u8>,
    /// The largest magnitude of each 256 scales less the offset: `[⌈codes / 256⌉]`.
    pub absmax: Vec<f32>,
    /// Code to value, ascending.
    pub code_book: [f32; 256],
    /// What was subtracted: the mean of all scales.
    pub offset: f32,
}

impl NestedScales {
    /// Quantizes scales with [`DYNAMIC_MAP`] and their mean as the offset. The mean is summed in f64 and rounded once; bitsandbytes' depends
    /// on the order in which it sums.
    pub fn new(scales: &[f32]) -> Self {
        let sum: f64 = scales.iter().map(|scale| f64::from(*scale)).sum();
        Self::with_offset(scales, (sum / scales.len().max(1) as f64) as f32)
    }

    /// Quantizes scales less an offset. As bitsandbytes' PyTorch kernel: whole blocks are multiplied by the reciprocal of their largest
    /// magnitude, a partial one is divided by it and stores it as at least 1e-38; the nearest code is taken.
    pub fn with_offset(scales: &[f32], offset: f32) -> Self {
        let mut codes = vec![0; scales.len()];
        let mut absmax = vec![0.0; scales.len().div_ceil(NESTED_BLOCK)];
        let blocks = scales.par_chunks(NESTED_BLOCK).zip(codes.par_chunks_mut(NESTED_BLOCK)).zip(&mut absmax);
        blocks.with_min_len(BLOCKS_AT_ONCE).for_each(|((block, codes), absmax)| {
            let mut centred = [0.0; NESTED_BLOCK];
            let centred = &mut centred[..block.len()];
            centred.iter_mut().zip(block).for_each(|(centred, scale)| *centred = scale - offset);
            let largest = largest_magnitude(centred);
            let factor = 1.0 / largest.max(LEAST_SCALE);
            let partial = block.len() < NESTED_BLOCK;
            *absmax = if partial { largest.max(LEAST_SCALE) } else { largest };
            let scaled = |value: f32| if partial { value / *absmax } else { value * factor };
            codes.iter_mut().zip(centred).for_each(|(code, value)| *code = nearest_code(scaled(*value)));
        });
        Self { codes, absmax, code_book: DYNAMIC_MAP, offset }
    }

    /// The scale of a block: `round(round(value · absmax) + offset)`, without a fused multiply-add.
    #[inline]
    pub fn scale(&self, block: usize) -> f32 {
        let product = self.code_book[usize::from(self.codes[block])] * self.absmax[block / NESTED_BLOCK];
        product + self.offset
    }

    /// Bytes that it takes, the code book included.
    pub fn bytes(&self) -> usize {
        self.codes.len() + size_of_val(&*self.absmax) + size_of_val(&self.code_book) + size_of_val(&self.offset)
    }
}
