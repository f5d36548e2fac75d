//! What memory costs on the processor.

use super::device::{DEQUANTIZED_NUMBERS, LOGITS_AT_ONCE};
use super::memory::ALIGNMENT;
use crate::ops::{EmbeddingPlace, MemoryPrices, PlacedBytes, ScratchDemand};
use crate::quant::MatrixForm;
use crate::tensor::StoredType;

/// Prices where numbers have `element` bytes, activations among them.
pub(super) struct CpuPrices {
    pub element: usize,
}

impl CpuPrices {
    /// Numbers of a weight that a gradient needs dequantized at once.
    fn dequantized(&self, form: &MatrixForm) -> usize {
        if form.stored == StoredType::F32 && self.element == size_of::<f32>() {
            return 0;
        }
        form.rows.min((DEQUANTIZED_NUMBERS / form.columns.max(1)).max(1)) * form.columns
    }
}

impl MemoryPrices for CpuPrices {
    fn buffer(&self, len: usize) -> u64 {
        (len * self.element + ALIGNMENT) as u64
    }

    fn activations(&self, len: usize) -> u64 {
        self.buffer(len)
    }

    /// They are not counted.
    fn indices(&self, _: usize) -> u64 {
        0
    }

    /// The processor has one memory.
    fn parked(&self, len: usize) -> PlacedBytes {
        PlacedBytes { device: self.buffer(len), pinned_host: 0 }
    }

    fn adapter_copy(&self, _: usize) -> u64 {
        0
    }

    fn weight(&self, form: &MatrixForm) -> u64 {
        form.host_bytes()
    }

    /// The system counts the pages of mapped files as available, although a run reads them all the time.
    fn held_weight(&self, form: &MatrixForm) -> u64 {
        if form.mapped { 0 } else { form.host_bytes() }
    }

    fn is_on_host(&self, _: &MatrixForm, _: EmbeddingPlace) -> bool {
        false
    }

    /// One memory for all: dequantized weights, and attention's gradients for each head where keys are shared.
    fn scratch(&self, demand: &ScratchDemand<'_>) -> u64 {
        let shape = demand.attention;
        let shared = shape.heads != shape.key_value_heads;
        let per_head = if shared { 2 * demand.train.rows * shape.heads * shape.head_dim } else { 0 };
        let weights = demand.backward.iter().map(|form| self.dequantized(form));
        self.buffer(weights.fold(per_head, usize::max))
    }

    fn logits_at_once(&self) -> usize {
        LOGITS_AT_ONCE
    }

    /// A twentieth: packed operands of products are not counted (some 16 MiB and what each thread needs), and the system has other programs.
    fn margin(&self, free: u64) -> u64 {
        free / 20
    }
}
