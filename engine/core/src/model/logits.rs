//! Raw logits of single positions, in full precision.

use super::decoder::Decoder;
use crate::config::ModelConfig;
use crate::error::{EngineError, Result};
use crate::ops::{Element, Ops, View};

/// What the output layer uses for some rows. Nothing in it outlives a call.
pub struct LogitsMemory<O: Ops> {
    /// Rows there is room for.
    rows: usize,
    normed: O::Buffer,
    factors: O::Buffer,
    /// `[rows, vocab_size]`, in full precision: rounded to 16 bits, large logits that differ would be equal.
    logits: O::Buffer,
    on_host: Vec<O::Elem>,
}

impl<O: Ops> LogitsMemory<O> {
    /// Room for `rows` rows. `OUT_OF_MEMORY` where the device refuses.
    pub fn new(ops: &O, config: &ModelConfig, rows: usize) -> Result<Self> {
        Ok(Self {
            rows,
            normed: ops.allocate_activations(rows * config.hidden_size)?,
            factors: ops.allocate(rows)?,
            logits: ops.allocate(rows * config.vocab_size)?,
            on_host: Vec::new(),
        })
    }
}

impl<O: Ops> Decoder<'_, O> {
    /// Raw logits `[rows, vocab_size]` of rows of the residual stream after the last block. Waits for the device.
    pub fn logits(
        &self,
        rows: usize,
        stream: View<'_, O::Buffer>,
        memory: &mut LogitsMemory<O>,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let (ops, base) = (self.ops, self.base);
        let (width, epsilon) = (base.config.hidden_size, base.config.rms_norm_eps);
        if rows > memory.rows {
            return Err(EngineError::internal(format!("logits of {rows} rows; there is room for {}", memory.rows)));
        }
        let LogitsMemory { normed, factors, logits, on_host, .. } = memory;
        ops.rms_norm(rows, width, stream, &base.norm, epsilon, (&mut *normed).into(), factors.into())?;
        let normed = View::from(&*normed);
        ops.linear_forward(rows, normed, base.output_weight(), None, None, None, (&mut *logits).into())?;
        on_host.resize(rows * base.config.vocab_size, O::Elem::from_f64(0.0));
        ops.read(View::from(&*logits), on_host)?;
        out.clear();
        out.extend(on_host.iter().map(|logit| logit.to_f64() as f32));
        Ok(())
    }
}
