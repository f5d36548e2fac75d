//! Device memory, counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use half::{bf16, f16};
use luthier_kernels::{CopyStream, DevicePointer, Event, NumberType, Stream};

use super::staging::{LEAST_BYTES, Staging};
use super::transfer::Transfer;
use crate::error::{EngineError, Result};
use crate::ops::view::outside;
use crate::ops::{MemoryUse, View, ViewMut};

/// A device's streams and what it has handed out.
pub(super) struct Memory {
    pub stream: Arc<Stream>,
    /// Copies to and from locked host memory.
    pub copies: CopyStream,
    /// The operations so far, as the last copy was to see them. An operation more does no harm: the copy then waits longer.
    pub so_far: Event,
    /// Made for the first weight.
    staging: Mutex<Option<Staging>>,
    now: AtomicU64,
    peak: AtomicU64,
    pinned: AtomicU64,
}

impl Memory {
    pub fn new(stream: Arc<Stream>) -> Result<Self> {
        Ok(Self {
            copies: CopyStream::new(stream.clone())?,
            so_far: Event::new(&stream)?,
            stream,
            staging: Mutex::default(),
            now: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            pinned: AtomicU64::new(0),
        })
    }

    pub fn in_use(&self) -> MemoryUse {
        MemoryUse {
            allocated_bytes: self.now.load(Ordering::Relaxed),
            peak_allocated_bytes: self.peak.load(Ordering::Relaxed),
            pinned_host_bytes: self.pinned.load(Ordering::Relaxed),
        }
    }

    /// Copies numbers to the device, rounded to `kind`.
    ///
    /// # Safety
    /// `to` has room for so many numbers of this type.
    pub unsafe fn upload_as(&self, kind: NumberType, values: &[f32], to: DevicePointer) -> Result<()> {
        // SAFETY: the caller's promise; pageable memory is staged before a copy returns.
        for_rounded(kind, values, |bytes| unsafe { self.stream.upload(bytes, to) }).map_err(EngineError::from)
    }

    /// Copies to the device, in the stream's order; the bytes may be changed once this returns. Large ones use every thread.
    ///
    /// # Safety
    /// `to` has room for the bytes.
    pub unsafe fn upload(&self, bytes: &[u8], to: DevicePointer) -> Result<()> {
        if bytes.len() < LEAST_BYTES {
            // SAFETY: the caller's promise.
            return unsafe { self.stream.upload(bytes, to) }.map_err(EngineError::from);
        }
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        let staging = match &mut *staging {
            Some(found) => found,
            none => none.insert(Staging::new(&self.stream)?),
        };
        // SAFETY: the caller's promise.
        unsafe { staging.upload(bytes, to) }
    }

    /// Counts bytes that something else took (a library's workspace).
    pub fn count(&self, bytes: u64) {
        let now = self.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(now, Ordering::Relaxed);
    }

    pub(super) fn count_pinned(&self, bytes: u64) {
        self.pinned.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn uncount_pinned(&self, bytes: u64) {
        self.pinned.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Calls `work` with the bytes of numbers rounded to `kind`.
pub(super) fn for_rounded<R>(kind: NumberType, values: &[f32], work: impl FnOnce(&[u8]) -> R) -> R {
    fn bytes<T: Copy>(values: &[T]) -> &[u8] {
        // SAFETY: numbers without padding, borrowed with the result.
        unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
    }
    fn rounded<T>(values: &[f32], round: impl Fn(f32) -> T) -> Vec<T> {
        values.iter().map(|value| round(*value)).collect()
    }
    match kind {
        NumberType::F32 => work(bytes(values)),
        NumberType::F16 => work(bytes(&rounded(values, f16::from_f32))),
        NumberType::BF16 => work(bytes(&rounded(values, bf16::from_f32))),
    }
}

/// A piece of device memory; given back when dropped.
pub(super) struct Allocation {
    pub pointer: DevicePointer,
    bytes: usize,
    memory: Arc<Memory>,
}

impl Allocation {
    /// `bytes` of memory, not cleared. `OUT_OF_MEMORY` with numbers where the device has none.
    pub fn new(memory: &Arc<Memory>, bytes: usize) -> Result<Self> {
        let pointer = memory.stream.allocate(bytes).map_err(|error| {
            let held = memory.in_use().allocated_bytes;
            let free = memory.stream.memory().map_or(0, |(free, _)| free);
            let mut error = EngineError::from(error);
            error.message = format!("{} ({held} bytes are allocated, {free} free)", error.message);
            error
        })?;
        memory.count(bytes as u64);
        Ok(Self { pointer, bytes, memory: memory.clone() })
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: from `allocate`; the last use was before this, and freeing waits for work under way.
        unsafe { self.memory.stream.free(self.pointer) };
        self.memory.now.fetch_sub(self.bytes as u64, Ordering::Relaxed);
    }
}

/// Numbers on the GPU.
pub struct CudaBuffer {
    /// Present once the buffer was copied to or from the host. It is dropped before the memory is, and waits for the copy.
    transfer: OnceLock<Transfer>,
    pub(super) allocation: Allocation,
    pub(super) kind: NumberType,
    len: usize,
    /// Counts places given out to write to.
    version: AtomicU64,
    /// All numbers in a shorter type, for products with activations: made when first asked for, and anew once the numbers may have changed.
    shadow: Mutex<Option<Shadow>>,
}

struct Shadow {
    allocation: Allocation,
    kind: NumberType,
    version: u64,
}

impl CudaBuffer {
    /// `len` zeros.
    pub(super) fn new(memory: &Arc<Memory>, len: usize, kind: NumberType) -> Result<Self> {
        let bytes = len.checked_mul(kind.bytes()).ok_or_else(|| outside(len, 0, len))?;
        let allocation = Allocation::new(memory, bytes)?;
        if bytes > 0 {
            // SAFETY: the memory just allocated.
            unsafe { memory.stream.clear(allocation.pointer, bytes)? };
        }
        Ok(Self {
            transfer: OnceLock::new(),
            allocation,
            kind,
            len,
            version: AtomicU64::new(0),
            shadow: Mutex::default(),
        })
    }

    fn address(&self, offset: usize, len: usize) -> Result<DevicePointer> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(self.allocation.pointer + (offset * self.kind.bytes()) as u64),
            _ => Err(outside(self.len, offset, len)),
        }
    }

    /// Where `len` numbers from `offset` on lie, for operations that read them: they follow a copy from the host.
    pub(super) fn place(&self, offset: usize, len: usize) -> Result<DevicePointer> {
        self.follow(false)?;
        self.address(offset, len)
    }

    /// As [`Self::place`], to write to: operations follow a copy to the host, too.
    pub(super) fn place_mut(&mut self, offset: usize, len: usize) -> Result<DevicePointer> {
        self.place_to_write(offset, len)
    }

    fn place_to_write(&self, offset: usize, len: usize) -> Result<DevicePointer> {
        self.follow(true)?;
        self.version.fetch_add(1, Ordering::Relaxed);
        self.address(offset, len)
    }

    /// Where a copy of the first `len` numbers from the host goes. It follows earlier copies as it is.
    pub(super) fn place_of_copy(&mut self, len: usize) -> Result<DevicePointer> {
        self.version.fetch_add(1, Ordering::Relaxed);
        self.address(0, len)
    }

    fn follow(&self, writing: bool) -> Result<()> {
        self.transfer.get().map_or(Ok(()), |transfer| transfer.follow(&self.allocation.memory, writing))
    }

    /// What orders this buffer's copies; made for the first.
    pub(super) fn transfer(&self) -> Result<&Transfer> {
        if self.transfer.get().is_none() {
            // Where another thread was faster, its own serves.
            let _ = self.transfer.set(Transfer::new(&self.allocation.memory)?);
        }
        self.transfer.get().ok_or_else(|| EngineError::internal("an event was not made"))
    }

    /// Where `len` numbers from `offset` on lie in another type.
    pub(super) fn converted(&self, kind: NumberType, offset: usize, len: usize) -> Result<DevicePointer> {
        let place = self.place(offset, len)?;
        if kind == self.kind {
            return Ok(place);
        }
        let memory = &self.allocation.memory;
        let version = self.version.load(Ordering::Relaxed);
        let mut shadow = self.shadow.lock().unwrap_or_else(PoisonError::into_inner);
        if shadow.as_ref().is_none_or(|found| found.kind != kind) {
            let allocation = Allocation::new(memory, self.len * kind.bytes())?;
            *shadow = Some(Shadow { allocation, kind, version: u64::MAX });
        }
        let Some(shadow) = &mut *shadow else { return Err(EngineError::internal("a copy was not made")) };
        if shadow.version != version {
            let to = shadow.allocation.pointer;
            // SAFETY: the whole buffer, and memory for as many numbers.
            unsafe { memory.stream.convert([self.kind, kind], self.len, self.allocation.pointer, to)? };
            shadow.version = version;
        }
        Ok(shadow.allocation.pointer + (offset * kind.bytes()) as u64)
    }
}

/// Where a view's `len` numbers lie.
pub(super) fn place(view: View<'_, CudaBuffer>, len: usize) -> Result<DevicePointer> {
    view.buffer.place(view.offset, len)
}

/// As [`place`], to write to.
pub(super) fn place_mut(view: &ViewMut<'_, CudaBuffer>, len: usize) -> Result<DevicePointer> {
    view.buffer.place_to_write(view.offset, len)
}

/// Integers on the GPU, with a copy on the host for what is planned there.
pub struct CudaIndices {
    pub(super) allocation: Allocation,
    pub(super) values: Vec<u32>,
}

impl CudaIndices {
    pub(super) fn new(memory: &Arc<Memory>, capacity: usize) -> Result<Self> {
        Ok(Self { allocation: Allocation::new(memory, capacity * size_of::<u32>())?, values: Vec::new() })
    }

    pub(super) fn pointer(&self) -> DevicePointer {
        self.allocation.pointer
    }
}

/// 8-bit codes on the GPU, all zero at first.
pub struct CudaCodes(Allocation);

impl CudaCodes {
    pub(super) fn new(memory: &Arc<Memory>, len: usize) -> Result<Self> {
        let allocation = Allocation::new(memory, len)?;
        if len > 0 {
            // SAFETY: the memory just allocated.
            unsafe { memory.stream.clear(allocation.pointer, len)? };
        }
        Ok(Self(allocation))
    }

    /// Where `len` codes from `offset` on lie.
    pub(super) fn place(&self, offset: usize, len: usize) -> Result<DevicePointer> {
        match offset.checked_add(len) {
            Some(end) if end <= self.0.bytes() => Ok(self.0.pointer + offset as u64),
            _ => Err(outside(self.0.bytes(), offset, len)),
        }
    }
}

/// Fails where operands that a kernel takes as one type have different ones.
pub(super) fn one_kind<const N: usize>(buffers: [&CudaBuffer; N]) -> Result<NumberType> {
    let kind = buffers[0].kind;
    match buffers.iter().find(|buffer| buffer.kind != kind) {
        None => Ok(kind),
        Some(other) => Err(EngineError::internal(format!("an operation mixes {kind:?} and {:?}", other.kind))),
    }
}

/// Fails where a kernel's operand is not f32.
pub(super) fn single(buffer: &CudaBuffer) -> Result<()> {
    if buffer.kind == NumberType::F32 {
        Ok(())
    } else {
        Err(EngineError::internal(format!("{:?} where f32 is due", buffer.kind)))
    }
}
