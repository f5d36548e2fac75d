//! Which dropout masks a micro-batch draws.

use super::linear::LinearModule;
use crate::ops::DropoutMask;

/// Dropout of one micro-batch, on the inputs of the low-rank halves (PEFT's `lora_dropout`): each adapted layer draws a mask of its own, also
/// where several read the same input. A mask covers the rows that its layer computes: where the last block computes only those with a label after
/// attention, the first of them is row 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Share of the numbers that are dropped, above 0 and below 1.
    pub probability: f64,
    /// Of the run.
    pub seed: u64,
    /// Number of the micro-batch in the run; each draws other masks.
    pub micro_batch: u64,
}

impl Dropout {
    /// The mask of one layer's input.
    pub fn mask(self, layer: usize, module: LinearModule) -> DropoutMask {
        let words = |number: u64| [number as u32, (number >> 32) as u32];
        let [low, high] = words(self.micro_batch);
        // A block has seven layers: three bits.
        let place = (layer as u32) << 3 | module as u32;
        DropoutMask { key: words(self.seed), stream: [low, high, place], probability: self.probability }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::model::LINEAR_MODULES;

    #[test]
    fn every_place_has_a_mask_of_its_own() {
        let mut seen = HashSet::new();
        for seed in [0, 1, 1 << 32] {
            for micro_batch in [0, 1, 1 << 32] {
                for layer in 0..3 {
                    for module in LINEAR_MODULES {
                        let mask = Dropout { probability: 0.1, seed, micro_batch }.mask(layer, module);
                        assert!(seen.insert((mask.key, mask.stream)), "{seed} {micro_batch} {layer} {module:?}");
                    }
                }
            }
        }
    }
}
