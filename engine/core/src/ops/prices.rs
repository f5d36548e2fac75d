//! What memory costs on a device, so that a run can be priced before anything is taken.

use std::ops::{Add, Mul};

use super::{AttentionShape, EmbeddingPlace};
use crate::quant::MatrixForm;

/// Prices in bytes, as [`Ops::memory`](super::Ops::memory) counts them.
pub trait MemoryPrices: Send + Sync {
    /// Of [`Ops::allocate`](super::Ops::allocate).
    fn buffer(&self, len: usize) -> u64;
    /// Of [`Ops::allocate_activations`](super::Ops::allocate_activations).
    fn activations(&self, len: usize) -> u64;
    /// Of [`Ops::allocate_indices`](super::Ops::allocate_indices).
    fn indices(&self, capacity: usize) -> u64;
    /// Of [`Ops::allocate_codes`](super::Ops::allocate_codes).
    fn codes(&self, len: usize) -> u64 {
        len as u64
    }
    /// Of [`Ops::allocate_parked`](super::Ops::allocate_parked).
    fn parked(&self, len: usize) -> PlacedBytes;
    /// Of the copy in the type of activations that products with them make of an adapter of `len` numbers.
    fn adapter_copy(&self, len: usize) -> u64;
    /// Of a frozen matrix in the device's memory.
    fn weight(&self, form: &MatrixForm) -> u64;
    /// Of a frozen matrix that is loaded: what it has taken from [`MemoryRoom::free_bytes`], which may go on counting mapped files.
    fn held_weight(&self, form: &MatrixForm) -> u64;
    /// Whether an embedding table that is to be kept at `place` lies outside the device's memory, as its bytes then do.
    fn is_on_host(&self, table: &MatrixForm, place: EmbeddingPlace) -> bool;
    /// Of all that operations take for themselves in a run, once it has done its largest micro-batch.
    fn scratch(&self, demand: &ScratchDemand<'_>) -> u64;
    /// As [`Ops::LOGITS_AT_ONCE`](super::Ops::LOGITS_AT_ONCE).
    fn logits_at_once(&self) -> usize;
    /// Of `free` bytes, those that a plan leaves alone: what is not counted, and what others take meanwhile.
    fn margin(&self, free: u64) -> u64;
}

/// Bytes by the memory that they are in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlacedBytes {
    pub device: u64,
    /// Locked memory of the host that a GPU uses.
    pub pinned_host: u64,
}

impl Add for PlacedBytes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { device: self.device + other.device, pinned_host: self.pinned_host + other.pinned_host }
    }
}

impl Mul<usize> for PlacedBytes {
    type Output = Self;

    fn mul(self, count: usize) -> Self {
        Self { device: self.device * count as u64, pinned_host: self.pinned_host * count as u64 }
    }
}

/// Bounds on the micro-batches of one kind: each is the largest of any of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchSizes {
    /// Examples.
    pub sequences: usize,
    /// Tokens of one example.
    pub longest: usize,
    /// Tokens.
    pub rows: usize,
}

/// What a run asks of a device's own scratch.
pub struct ScratchDemand<'a> {
    /// Of training: forward and backward.
    pub train: BatchSizes,
    /// Of evaluation, forward alone; zeros where there is none.
    pub evaluation: BatchSizes,
    pub attention: AttentionShape,
    /// Matrices that products of the forward pass read.
    pub forward: Vec<&'a MatrixForm>,
    /// Matrices through which gradients go back.
    pub backward: Vec<&'a MatrixForm>,
    /// Of adapted layers that share an input and whose gradients are taken together: their rank, and the out_features of each.
    pub low_rank: Vec<(usize, Vec<usize>)>,
}

/// What a device has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRoom {
    /// Bytes that can still be had; none where nobody knows.
    pub free_bytes: Option<u64>,
    /// Bytes of scratch that earlier work left, which a run uses again.
    pub scratch_bytes: u64,
}
