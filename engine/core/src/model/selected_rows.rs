//! The rows that the last block goes on with after attention. Only rows with a label are read of the residual stream that it leaves, and only
//! attention reads other rows than its own: so the output projection and the MLP of the others are left out, forward and backward.
//!
//! Selected rows lie end to end in the order of their numbers. Keys, values, queries and attention's output stay those of all rows.

use super::activations::{BackwardScratch, LayerActivations, Scratch};
use super::batch::PackedBatch;
use super::block::{Block, Projections};
use crate::error::Result;
use crate::ops::Ops;

impl<O: Ops> Block<'_, O> {
    /// The numbers of the rows that this block goes on with after attention, where they are not all.
    pub(super) fn selected<'b>(&self, batch: &'b PackedBatch<O>) -> Option<&'b O::Indices> {
        batch.selected().filter(|_| self.is_last())
    }

    /// How many they are.
    pub(super) fn rows_after_attention(&self, batch: &PackedBatch<O>) -> usize {
        if self.is_last() { batch.output_rows() } else { batch.rows }
    }

    fn is_last(&self) -> bool {
        self.adapter.layer + 1 == self.config.num_hidden_layers
    }

    /// `saved.middle` = the residual stream after attention, of those rows.
    pub(super) fn selected_attention_output(
        &self,
        batch: &PackedBatch<O>,
        input: &O::Buffer,
        saved: &mut LayerActivations<O>,
        low_rank: &mut Projections<'_, O>,
        scratch: &mut Scratch<O>,
    ) -> Result<()> {
        let (mut attention, mut input) = (&saved.attention, input);
        if let Some(numbers) = self.selected(batch) {
            // The norm of the block's input has been read, and nothing is activated yet.
            let width = self.config.hidden_size;
            self.ops.gather_rows(input.into(), numbers, width, (&mut scratch.normed).into())?;
            attention = self.select_attention(numbers, saved, &mut scratch.activated)?;
            input = &scratch.normed;
        }
        let (rows, middle) = (self.rows_after_attention(batch), &mut saved.middle);
        self.attention_output(rows, attention, input, middle, low_rank, &mut scratch.dropped)
    }

    /// `out` = attention's output in selected rows.
    pub(super) fn select_attention<'b>(
        &self,
        numbers: &O::Indices,
        saved: &LayerActivations<O>,
        out: &'b mut O::Buffer,
    ) -> Result<&'b O::Buffer> {
        self.ops.gather_rows((&saved.attention).into(), numbers, self.config.query_size(), (&mut *out).into())?;
        Ok(out)
    }

    /// Puts gradients of selected rows in their places among all `rows`, between zeros: that of attention's output, in `scratch.activated`, to
    /// `grads.normed_or_attention`; that of the residual stream stays in `grads.hidden`. Uses up `scratch.normed`.
    pub(super) fn spread_gradients(
        &self,
        rows: usize,
        numbers: &O::Indices,
        scratch: &mut Scratch<O>,
        grads: &mut BackwardScratch<O>,
    ) -> Result<()> {
        for (width, from, to) in [
            (self.config.query_size(), &scratch.activated, &mut grads.normed_or_attention),
            (self.config.hidden_size, &grads.hidden, &mut scratch.normed),
        ] {
            self.ops.zero((&mut *to).into(), rows * width)?;
            self.ops.scatter_rows(from.into(), numbers, width, to.into())?;
        }
        // Buffers of one size.
        std::mem::swap(&mut grads.hidden, &mut scratch.normed);
        Ok(())
    }
}
