//! What memory costs on a GPU.

use luthier_kernels::NumberType;

use super::device::LOGITS_AT_ONCE;
use super::weight;
use crate::ops::{MemoryPrices, ScratchDemand};
use crate::quant::MatrixForm;

/// Prices where activations are of type `compute`.
pub(super) struct CudaPrices {
    pub compute: NumberType,
    /// What the device took when it was opened.
    pub own_bytes: u64,
}

impl MemoryPrices for CudaPrices {
    fn buffer(&self, len: usize) -> u64 {
        (len * size_of::<f32>()) as u64
    }

    fn activations(&self, len: usize) -> u64 {
        (len * self.compute.bytes()) as u64
    }

    fn indices(&self, capacity: usize) -> u64 {
        (capacity * size_of::<u32>()) as u64
    }

    fn adapter_copy(&self, len: usize) -> u64 {
        if self.compute == NumberType::F32 { 0 } else { self.activations(len) }
    }

    fn weight(&self, form: &MatrixForm) -> u64 {
        weight::bytes(form, self.compute)
    }

    fn held_weight(&self, form: &MatrixForm) -> u64 {
        self.weight(form)
    }

    /// The largest weight that products need in another type than it is held in, attention's sums over rows, and what is there from the start.
    fn scratch(&self, demand: &ScratchDemand<'_>) -> u64 {
        let other_type = demand.forward.iter().filter(|form| !weight::is_held_as(form, self.compute));
        let plain = other_type.map(|form| self.activations(form.len())).max().unwrap_or(0);
        plain + self.buffer(demand.rows * demand.attention.heads) + self.own_bytes
    }

    fn logits_at_once(&self) -> usize {
        LOGITS_AT_ONCE
    }

    /// A fiftieth and 256 MiB: the driver hands memory out in pieces of 2 MiB, and loads kernels of cuBLASLt when they are first used.
    fn margin(&self, free: u64) -> u64 {
        free / 50 + (256 << 20)
    }
}
