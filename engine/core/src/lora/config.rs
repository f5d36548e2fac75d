//! Settings of a new adapter.

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
    /// Module names such as `q_proj`, or longer ends of module paths; none: every linear layer but the output layer.
    pub target_modules: Option<Vec<String>>,
    pub use_rslora: bool,
    /// Seed of the initial A and of dropout.
    pub seed: u64,
}

impl LoraConfig {
    /// `lora_alpha / r`, or `lora_alpha / √r` with rsLoRA.
    pub fn scale(&self) -> f64 {
        lora_scale(self.r, self.lora_alpha, self.use_rslora)
    }

    /// `INVALID_ARGUMENT` for a value that cannot be worked with.
    pub fn validate(&self) -> Result<()> {
        if !(1..=MAX_RANK).contains(&self.r) {
            return Err(EngineError::invalid(format!("lora r is {}; expected 1 to {MAX_RANK}", self.r)));
        }
        if !(self.lora_alpha.is_finite() && self.lora_alpha > 0.0) {
            let found = self.lora_alpha;
            return Err(EngineError::invalid(format!("lora_alpha is {found}; expected a finite number above 0")));
        }
        Ok(())
    }
}

/// Factor of B·A.
pub(super) fn lora_scale(r: usize, lora_alpha: f64, use_rslora: bool) -> f64 {
    lora_alpha / if use_rslora { (r as f64).sqrt() } else { r as f64 }
}
