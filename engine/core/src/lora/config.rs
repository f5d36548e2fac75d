//! Settings of a new adapter.

use super::targets::LoraTargets;
use crate::error::{EngineError, Result};

/// Largest rank that is accepted.
const MAX_RANK: usize = 1 << 14;

/// How to make an adapter. Field for field the `LoraConfig` of `src/engine/engine.ts`.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    pub r: usize,
    pub lora_alpha: f64,
    /// Share of a layer's input that its low-rank half does not see in training, drawn anew for each micro-batch and layer; at least 0 and
    /// below 1. A setting of the run: it holds, with `seed`, also where training starts from an existing adapter.
    pub lora_dropout: f64,
    pub targets: LoraTargets,
    pub use_rslora: bool,
    /// Seed of the initial A, of dropout and of noise on embeddings.
    pub seed: u64,
}

/// PEFT's defaults, but for `lora_alpha`: twice the rank.
impl Default for LoraConfig {
    fn default() -> Self {
        Self { r: 8, lora_alpha: 16.0, lora_dropout: 0.0, targets: LoraTargets::default(), use_rslora: false, seed: 42 }
    }
}

impl LoraConfig {
    /// `INVALID_ARGUMENT` for a value that cannot be worked with.
    pub fn validate(&self) -> Result<()> {
        for r in std::iter::once(&self.r).chain(self.targets.rank_pattern.values()) {
            if !(1..=MAX_RANK).contains(r) {
                return Err(EngineError::invalid(format!("lora r is {r}; expected 1 to {MAX_RANK}")));
            }
        }
        for alpha in std::iter::once(&self.lora_alpha).chain(self.targets.alpha_pattern.values()) {
            if !(alpha.is_finite() && *alpha > 0.0) {
                return Err(EngineError::invalid(format!("lora_alpha is {alpha}; expected a finite number above 0")));
            }
        }
        Ok(())
    }
}

/// Factor of B·A: `lora_alpha / r`, or `lora_alpha / √r` with rsLoRA.
pub(crate) fn lora_scale(r: usize, lora_alpha: f64, use_rslora: bool) -> f64 {
    lora_alpha / if use_rslora { (r as f64).sqrt() } else { r as f64 }
}
