//! Locked memory of the host, counted, and activations that are kept there.

use std::sync::Arc;

use luthier_kernels::{DevicePointer, NumberType, PinnedMemory};

use super::memory::{CudaBuffer, Memory};
use super::transfer::Way;
use crate::error::{EngineError, ErrorCode, Result};
use crate::ops::view::outside;

/// A piece of locked host memory; given back when dropped.
pub(super) struct Pinned {
    pinned: PinnedMemory,
    memory: Arc<Memory>,
}

impl Pinned {
    /// `bytes` of it, which hold anything. `OUT_OF_MEMORY` with numbers where the host does not lock so much.
    pub fn new(memory: &Arc<Memory>, bytes: usize) -> Result<Self> {
        let pinned = PinnedMemory::new(&memory.stream, bytes).map_err(|error| {
            let locked = memory.in_use().pinned_host_bytes;
            let message = format!(
                "GPU: {error} ({locked} bytes are locked); expected host memory for what was to be kept off the GPU: give the process more, or keep it on the GPU"
            );
            EngineError::new(ErrorCode::OutOfMemory, message)
        })?;
        memory.count_pinned(bytes as u64);
        Ok(Self { pinned, memory: memory.clone() })
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.pinned.bytes()
    }

    /// Where kernels read it.
    pub fn pointer(&self) -> DevicePointer {
        self.pinned.device_pointer()
    }

    /// Puts bytes in at the start, before anything on the device reads them; panics where they do not fit.
    pub fn fill(&mut self, bytes: &[u8]) {
        // SAFETY: only called while a weight is taken, before any operation with it.
        let room = unsafe { self.pinned.as_mut_slice() };
        room[..bytes.len()].copy_from_slice(bytes);
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.memory.uncount_pinned(self.pinned.bytes() as u64);
    }
}

/// Activations in locked host memory, which only copies touch.
pub struct CudaParked {
    pinned: Pinned,
    kind: NumberType,
}

impl CudaParked {
    /// Room for `len` numbers.
    pub(super) fn new(memory: &Arc<Memory>, len: usize, kind: NumberType) -> Result<Self> {
        let bytes = len.checked_mul(kind.bytes()).ok_or_else(|| outside(len, 0, len))?;
        Ok(Self { pinned: Pinned::new(memory, bytes)?, kind })
    }

    /// Bytes of `len` numbers, which `buffer` holds in the same type.
    fn bytes(&self, len: usize, buffer: &CudaBuffer) -> Result<usize> {
        if buffer.kind != self.kind {
            return Err(EngineError::internal(format!("{:?} are copied to or from {:?}", buffer.kind, self.kind)));
        }
        let (bytes, room) = (len * self.kind.bytes(), self.pinned.pinned.bytes());
        if bytes <= room { Ok(bytes) } else { Err(outside(room / self.kind.bytes(), 0, len)) }
    }

    /// Starts to copy the first `len` numbers of `from` here, after the operations so far; those that follow run beside it. The first that
    /// writes to `from` waits for it.
    pub(super) fn park(&mut self, len: usize, from: &CudaBuffer) -> Result<()> {
        let bytes = self.bytes(len, from)?;
        let place = from.place(0, len)?;
        let memory = &*self.pinned.memory;
        from.transfer()?.begin(memory, Way::Out, || {
            // SAFETY: sizes were checked. The copy starts after what wrote to `from`, and what writes to it next waits for it; this memory is
            // used by copies alone, which are done in their order.
            unsafe { memory.copies.to_host(place, &self.pinned.pinned, bytes) }.map_err(EngineError::from)
        })
    }

    /// Starts to copy the first `len` numbers back to `to`, after the operations so far; those that follow run beside it. The first that uses
    /// `to` waits for it.
    pub(super) fn fetch(&self, len: usize, to: &mut CudaBuffer) -> Result<()> {
        let bytes = self.bytes(len, to)?;
        let place = to.place_of_copy(len)?;
        let memory = &*self.pinned.memory;
        to.transfer()?.begin(memory, Way::In, || {
            // SAFETY: sizes were checked. The copy starts after everything that used `to`, copies included, and what uses it next waits for it.
            unsafe { memory.copies.to_device(&self.pinned.pinned, place, bytes) }.map_err(EngineError::from)
        })
    }
}
