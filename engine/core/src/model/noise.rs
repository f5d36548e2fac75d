//! Which noise a micro-batch's embeddings get.

use crate::ops::UniformNoise;

/// Counter word of the embeddings: no layer's dropout has it.
const EMBEDDINGS: u32 = u32::MAX;

/// NEFTune (Jain et al., "Noisy Embeddings Improve Instruction Finetuning", 2023): uniform noise within ±alpha / √(longest · width), as
/// transformers' Trainer adds it, where `longest` is the length that it pads a micro-batch to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmbeddingNoise {
    /// Above 0.
    pub alpha: f64,
    /// Of the run.
    pub seed: u64,
    /// Number of the micro-batch in the run; each draws other noise.
    pub micro_batch: u64,
}

impl EmbeddingNoise {
    /// Of embeddings of `width` numbers in a micro-batch whose longest sequence has `longest` tokens.
    pub(super) fn of(self, longest: usize, width: usize) -> UniformNoise {
        let words = |number: u64| [number as u32, (number >> 32) as u32];
        let [low, high] = words(self.micro_batch);
        let bound = self.alpha / ((longest * width) as f64).sqrt();
        UniformNoise { key: words(self.seed), stream: [low, high, EMBEDDINGS], bound }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Trainer's `alpha / sqrt(L · d)`; every micro-batch and run draws its own, and none draws what dropout does.
    #[test]
    fn bound_and_streams() {
        let noise = EmbeddingNoise { alpha: 5.0, seed: 3, micro_batch: 1 << 32 };
        let UniformNoise { key, stream, bound } = noise.of(25, 64);
        assert_eq!((key, stream, bound), ([3, 0], [0, 1, u32::MAX], 5.0 / 40.0));
    }
}
