//! What memory costs on a device, so that a run can be priced before anything is taken.

use super::AttentionShape;
use crate::quant::MatrixForm;

/// Prices in bytes, as [`Ops::memory`](super::Ops::memory) counts them.
pub trait MemoryPrices: Send + Sync {
    /// Of [`Ops::allocate`](super::Ops::allocate).
    fn buffer(&self, len: usize) -> u64;
    /// Of [`Ops::allocate_activations`](super::Ops::allocate_activations).
    fn activations(&self, len: usize) -> u64;
    /// Of [`Ops::allocate_indices`](super::Ops::allocate_indices).
    fn indices(&self, capacity: usize) -> u64;
    /// Of the copy in the type of activations that products with them make of an adapter of `len` numbers.
    fn adapter_copy(&self, len: usize) -> u64;
    /// Of a frozen matrix.
    fn weight(&self, form: &MatrixForm) -> u64;
    /// Of a frozen matrix that is loaded: what it has taken from [`MemoryRoom::free_bytes`], which may go on counting mapped files.
    fn held_weight(&self, form: &MatrixForm) -> u64;
    /// Of all that operations take for themselves in a run, once it has done its largest micro-batch.
    fn scratch(&self, demand: &ScratchDemand<'_>) -> u64;
    /// As [`Ops::LOGITS_AT_ONCE`](super::Ops::LOGITS_AT_ONCE).
    fn logits_at_once(&self) -> usize;
    /// Of `free` bytes, those that a plan leaves alone: what is not counted, and what others take meanwhile.
    fn margin(&self, free: u64) -> u64;
}

/// What a run asks of a device's own scratch.
pub struct ScratchDemand<'a> {
    /// Tokens of the largest training micro-batch.
    pub rows: usize,
    pub attention: AttentionShape,
    /// Matrices that products of the forward pass read.
    pub forward: Vec<&'a MatrixForm>,
    /// Matrices through which gradients go back.
    pub backward: Vec<&'a MatrixForm>,
}

/// What a device has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRoom {
    /// Bytes that can still be had; none where nobody knows.
    pub free_bytes: Option<u64>,
    /// Bytes of scratch that earlier work left, which a run uses again.
    pub scratch_bytes: u64,
}
