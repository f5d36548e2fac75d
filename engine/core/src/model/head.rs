//! The output layer and the loss, for labelled rows only and in pieces, so that full logits never exist.

use super::activations::Scratch;
use super::batch::PackedBatch;
use super::weights::BaseModel;
use crate::config::ModelConfig;
use crate::error::{EngineError, Result};
use crate::ops::{Element, LinearGradTerm, MemoryPrices, Ops, View, ViewMut};

/// Memory of the output layer; shared by training and evaluation.
pub struct HeadScratch<O: Ops> {
    /// Rows of one piece.
    rows: usize,
    logits: O::Buffer,
    /// `[rows, hidden_size]` each: the rows where they are not all of the stream, their norm, and gradients of both.
    hidden: O::Buffer,
    normed: O::Buffer,
    hidden_grad: O::Buffer,
    normed_grad: O::Buffer,
    factors: O::Buffer,
    /// Of all labelled rows; read once.
    losses: O::Buffer,
    numbers: O::Indices,
    targets: O::Indices,
    losses_on_host: Vec<O::Elem>,
    label_smoothing: f64,
}

impl<O: Ops> HeadScratch<O> {
    /// Memory for batches of up to `labelled` labelled rows, taken a piece at a time.
    pub fn new(ops: &O, config: &ModelConfig, labelled: usize) -> Result<Self> {
        let rows = piece_rows(labelled, O::LOGITS_AT_ONCE, config);
        let hidden = rows * config.hidden_size;
        Ok(Self {
            rows,
            logits: ops.allocate_activations(rows * config.vocab_size)?,
            hidden: ops.allocate_activations(hidden)?,
            normed: ops.allocate_activations(hidden)?,
            hidden_grad: ops.allocate_activations(hidden)?,
            normed_grad: ops.allocate_activations(hidden)?,
            factors: ops.allocate(rows)?,
            losses: ops.allocate(labelled)?,
            numbers: ops.allocate_indices(rows)?,
            targets: ops.allocate_indices(rows)?,
            losses_on_host: Vec::new(),
            label_smoothing: 0.0,
        })
    }

    /// Losses and gradients of labels that are smoothed by a share in [0, 1]; see [`Ops::cross_entropy`].
    #[must_use]
    pub fn with_label_smoothing(self, label_smoothing: f64) -> Self {
        Self { label_smoothing, ..self }
    }

    /// Σ cross-entropy over the batch's labels, from the residual stream after the last block, [`PackedBatch::output_rows`] of it.
    ///
    /// With `grad_scale`, the gradient of `loss sum · grad_scale` with respect to those rows goes to the scratch's backward part.
    pub(super) fn loss(
        &mut self,
        ops: &O,
        base: &BaseModel<O>,
        batch: &PackedBatch<O>,
        stream: &O::Buffer,
        scratch: &mut Scratch<O>,
        grad_scale: Option<f64>,
    ) -> Result<f64> {
        let (width, epsilon, vocabulary) = (base.config.hidden_size, base.config.rms_norm_eps, base.config.vocab_size);
        let mut stream_grad = match (grad_scale, &mut scratch.backward) {
            (None, _) => None,
            (Some(_), Some(backward)) => Some(&mut backward.hidden),
            (Some(_), None) => return Err(EngineError::internal("scratch has no room for a backward pass")),
        };
        if let Some(grad) = &mut stream_grad {
            ops.zero((&mut **grad).into(), batch.output_rows() * width)?;
        }
        // Where the last block has computed the labelled rows alone, the stream holds them end to end.
        let selected = batch.selected().is_some();
        let mut done = 0;
        let pieces = batch.labelled_rows.chunks(self.rows).zip(batch.targets.chunks(self.rows));
        for (numbers, targets) in pieces {
            let rows = numbers.len();
            ops.write_indices(targets, &mut self.targets)?;
            let x = if selected {
                View::at(stream, done * width)
            } else {
                ops.write_indices(numbers, &mut self.numbers)?;
                ops.gather_rows(stream.into(), &self.numbers, width, (&mut self.hidden).into())?;
                View::from(&self.hidden)
            };
            let (normed, factors) = (&mut self.normed, &mut self.factors);
            ops.rms_norm(rows, width, x, &base.norm, epsilon, normed.into(), factors.into())?;
            let (weight, logits) = (base.output_weight(), &mut self.logits);
            ops.linear_forward(rows, (&self.normed).into(), weight, None, None, None, logits.into())?;
            let (logits, losses) = (&mut self.logits, ViewMut::at(&mut self.losses, done));
            ops.cross_entropy(vocabulary, &self.targets, self.label_smoothing, grad_scale, logits.into(), losses)?;
            if let Some(stream_grad) = &mut stream_grad {
                let term = LinearGradTerm { output_grad: View::from(&self.logits), weight };
                ops.linear_grad_input(rows, &[term], None, (&mut self.normed_grad).into())?;
                let (norm, factors, grad) = (&base.norm, (&self.factors).into(), (&self.normed_grad).into());
                if selected {
                    let hidden_grad = ViewMut::at(&mut **stream_grad, done * width);
                    ops.rms_norm_backward(rows, width, x, norm, factors, grad, hidden_grad, None)?;
                } else {
                    ops.zero((&mut self.hidden_grad).into(), rows * width)?;
                    let hidden_grad = ViewMut::from(&mut self.hidden_grad);
                    ops.rms_norm_backward(rows, width, x, norm, factors, grad, hidden_grad, None)?;
                    ops.scatter_rows((&self.hidden_grad).into(), &self.numbers, width, (&mut **stream_grad).into())?;
                }
            }
            done += rows;
        }
        self.losses_on_host.resize(done, O::Elem::from_f64(0.0));
        ops.read((&self.losses).into(), &mut self.losses_on_host)?;
        Ok(self.losses_on_host.iter().map(|loss| loss.to_f64()).sum())
    }
}

/// Rows of one piece.
fn piece_rows(labelled: usize, logits_at_once: usize, config: &ModelConfig) -> usize {
    labelled.min((logits_at_once / config.vocab_size).max(1))
}

/// Bytes of [`HeadScratch::new`].
pub(crate) fn head_bytes(prices: &dyn MemoryPrices, config: &ModelConfig, labelled: usize) -> u64 {
    let rows = piece_rows(labelled, prices.logits_at_once(), config);
    prices.activations(rows * config.vocab_size)
        + 4 * prices.activations(rows * config.hidden_size)
        + prices.buffer(rows)
        + prices.buffer(labelled)
        + 2 * prices.indices(rows)
}
