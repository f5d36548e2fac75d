//! What memory costs on a GPU.

use luthier_kernels::{AttentionSizes, Cudnn, LowRankSizes, NumberType};

use super::device::LOGITS_AT_ONCE;
use super::weight;
use crate::ops::{AttentionShape, BatchSizes, EmbeddingPlace, MemoryPrices, PlacedBytes, ScratchDemand};
use crate::quant::MatrixForm;

/// Prices where activations are of type `compute`.
pub(super) struct CudaPrices<'a> {
    pub compute: NumberType,
    /// What the device took when it was opened.
    pub own_bytes: u64,
    /// Where attention is cuDNN's.
    pub cudnn: Option<&'a Cudnn>,
}

impl CudaPrices<'_> {
    /// Scratch of attention over batches within these bounds. cuDNN is asked for its workspace at the bounds themselves, which one batch need not
    /// reach together.
    fn attention(&self, shape: AttentionShape, batch: BatchSizes, backward: bool) -> usize {
        let AttentionShape { heads, key_value_heads, head_dim, window, alibi } = shape;
        let BatchSizes { sequences, longest, rows } = batch;
        let own = if backward { rows * heads * size_of::<f32>() } else { 0 };
        let scratch = |window| {
            let sizes = AttentionSizes { sequences, longest, rows, heads, key_value_heads, head_dim, window, alibi };
            self.cudnn.and_then(|cudnn| cudnn.scratch_bytes(self.compute, sizes, backward)).unwrap_or(own)
        };
        // A batch whose sequences are all shorter than the window goes without it.
        scratch(window).max(scratch(None))
    }
}

impl MemoryPrices for CudaPrices<'_> {
    fn buffer(&self, len: usize) -> u64 {
        (len * size_of::<f32>()) as u64
    }

    fn activations(&self, len: usize) -> u64 {
        (len * self.compute.bytes()) as u64
    }

    fn indices(&self, capacity: usize) -> u64 {
        (capacity * size_of::<u32>()) as u64
    }

    fn parked(&self, len: usize) -> PlacedBytes {
        PlacedBytes { device: 0, pinned_host: self.activations(len) }
    }

    fn adapter_copy(&self, len: usize) -> u64 {
        if self.compute == NumberType::F32 { 0 } else { self.activations(len) }
    }

    fn weight(&self, form: &MatrixForm) -> u64 {
        weight::bytes(form)
    }

    fn held_weight(&self, form: &MatrixForm) -> u64 {
        self.weight(form)
    }

    fn is_on_host(&self, table: &MatrixForm, place: EmbeddingPlace) -> bool {
        weight::is_placed_on_host(table, place)
    }

    /// One memory for all: the largest weight that products need in another type than it is held in, what attention takes, and the sums of
    /// low-rank gradients. Beside it what is there from the start.
    fn scratch(&self, demand: &ScratchDemand<'_>) -> u64 {
        let ScratchDemand { train, evaluation, attention, .. } = *demand;
        let other_type = demand.forward.iter().filter(|form| !weight::is_held_as(form, self.compute));
        let plain = other_type.map(|form| self.activations(form.len()) as usize);
        let low_rank = demand.low_rank.iter().filter_map(|(rank, out_features)| {
            let sizes = LowRankSizes { rows: train.rows, rank: *rank, out_features };
            sizes.fit(self.compute).then(|| sizes.scratch_bytes())
        });
        let passes = [(train, false), (train, true), (evaluation, false)];
        let attention = passes.map(|(batch, backward)| self.attention(attention, batch, backward));
        let largest = plain.chain(low_rank).chain(attention).max().unwrap_or(0);
        largest as u64 + self.own_bytes
    }

    fn logits_at_once(&self) -> usize {
        LOGITS_AT_ONCE
    }

    /// A fiftieth and 256 MiB: the driver hands memory out in pieces of 2 MiB, and loads kernels of cuBLASLt and cuDNN when they are first used.
    fn margin(&self, free: u64) -> u64 {
        free / 50 + (256 << 20)
    }
}
