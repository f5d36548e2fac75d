//! Memory of the processor's device, counted.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::real::Real;
use crate::error::{EngineError, ErrorCode, Result};
use crate::ops::MemoryUse;

/// A cache line, and the widest vector register.
pub(super) const ALIGNMENT: usize = 64;

/// Bytes that buffers and weights hold now, and held at most.
pub(super) struct MemoryCounter {
    now: AtomicU64,
    peak: AtomicU64,
    /// Buffers may not take more.
    limit: AtomicU64,
}

impl Default for MemoryCounter {
    fn default() -> Self {
        Self { now: AtomicU64::new(0), peak: AtomicU64::new(0), limit: AtomicU64::new(u64::MAX) }
    }
}

impl MemoryCounter {
    pub fn current(&self) -> MemoryUse {
        MemoryUse {
            allocated_bytes: self.now.load(Ordering::Relaxed),
            peak_allocated_bytes: self.peak.load(Ordering::Relaxed),
            pinned_host_bytes: 0,
        }
    }

    pub fn set_limit(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    /// Bytes below the limit.
    pub fn left(&self) -> u64 {
        self.limit.load(Ordering::Relaxed).saturating_sub(self.now.load(Ordering::Relaxed))
    }

    fn add(&self, bytes: u64) {
        let now = self.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(now, Ordering::Relaxed);
    }

    fn subtract(&self, bytes: u64) {
        self.now.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Memory that something else owns, counted as long as this lives.
pub(super) struct Counted {
    bytes: u64,
    counter: Arc<MemoryCounter>,
}

impl Counted {
    pub fn new(bytes: u64, counter: &Arc<MemoryCounter>) -> Self {
        counter.add(bytes);
        Self { bytes, counter: counter.clone() }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counter.subtract(self.bytes);
    }
}

/// 8-bit codes, all zero at first.
pub struct CpuCodes {
    pub(super) codes: Vec<u8>,
    _counted: Counted,
}

impl CpuCodes {
    /// `OUT_OF_MEMORY` where the limit refuses.
    pub(super) fn new(len: usize, counter: &Arc<MemoryCounter>) -> Result<Self> {
        if len as u64 > counter.left() {
            let memory = counter.current().allocated_bytes;
            let message = format!("cannot allocate {len} codes; the engine holds {memory} bytes");
            return Err(EngineError::new(ErrorCode::OutOfMemory, message));
        }
        Ok(Self { codes: vec![0; len], _counted: Counted::new(len as u64, counter) })
    }
}

/// Zero-initialised numbers in memory of their own, aligned to a cache line.
pub struct CpuBuffer<E> {
    start: *mut E,
    len: usize,
    allocation: *mut u8,
    layout: Layout,
    counter: Arc<MemoryCounter>,
}

// SAFETY: the memory belongs to this value alone.
unsafe impl<E: Send> Send for CpuBuffer<E> {}
// SAFETY: shared access only reads.
unsafe impl<E: Sync> Sync for CpuBuffer<E> {}

impl<E: Real> CpuBuffer<E> {
    /// `OUT_OF_MEMORY` where the system or the limit refuses. Pages are only taken when they are first written to.
    pub(super) fn new(len: usize, counter: &Arc<MemoryCounter>) -> Result<Self> {
        let refused = || {
            let memory = counter.current().allocated_bytes;
            let message = format!(
                "cannot allocate {len} numbers of {} bytes; the engine holds {memory} bytes; use smaller batches or shorter examples",
                size_of::<E>()
            );
            EngineError::new(ErrorCode::OutOfMemory, message)
        };
        // With an alignment of its own the allocator could not hand out fresh zero pages untouched; so it is made by hand.
        let bytes =
            len.checked_mul(size_of::<E>()).and_then(|bytes| bytes.checked_add(ALIGNMENT)).ok_or_else(refused)?;
        let layout = Layout::from_size_align(bytes, align_of::<E>()).map_err(|_| refused())?;
        if bytes as u64 > counter.left() {
            return Err(refused());
        }
        // SAFETY: the size is at least `ALIGNMENT`.
        let allocation = unsafe { alloc_zeroed(layout) };
        if allocation.is_null() {
            return Err(refused());
        }
        let start = allocation.wrapping_add(allocation.align_offset(ALIGNMENT)).cast::<E>();
        counter.add(bytes as u64);
        Ok(Self { start, len, allocation, layout, counter: counter.clone() })
    }
}

impl<E> CpuBuffer<E> {
    /// The numbers.
    pub fn as_slice(&self) -> &[E] {
        // SAFETY: `len` initialised numbers, borrowed with `self`.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> u64 {
        self.layout.size() as u64
    }

    /// The numbers, to change.
    pub fn as_mut_slice(&mut self) -> &mut [E] {
        // SAFETY: `len` initialised numbers, borrowed alone with `self`.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl<E> Drop for CpuBuffer<E> {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `new`.
        unsafe { dealloc(self.allocation, self.layout) };
        self.counter.subtract(self.layout.size() as u64);
    }
}
