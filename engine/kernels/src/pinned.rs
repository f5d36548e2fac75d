//! Memory of the host that stays where it is, so that the GPU can copy from and to it, and read it, by itself.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{DriverError, result, sys};

use crate::error::{CudaError, Result};
use crate::stream::{DevicePointer, Stream};

/// Page-locked memory of the host. Copies to and from it run beside kernels, and kernels read it under its address on the device, at the speed
/// of the bus. Given back when dropped.
pub struct PinnedMemory {
    start: *mut c_void,
    device: DevicePointer,
    bytes: usize,
    stream: Arc<Stream>,
}

// SAFETY: the memory belongs to this value alone; the driver's functions may be called from any thread.
unsafe impl Send for PinnedMemory {}
// SAFETY: shared access gives out addresses only.
unsafe impl Sync for PinnedMemory {}

impl PinnedMemory {
    /// `bytes` of memory, which hold anything.
    ///
    /// Errors: the host does not lock so much memory.
    pub fn new(stream: &Arc<Stream>, bytes: usize) -> Result<Self> {
        stream.enter()?;
        let failed = |error: DriverError| CudaError::new(format!("locking {bytes} bytes of host memory"), &error);
        let flags = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP;
        // SAFETY: plain memory, given back when this value is dropped, as it is where the mapping below fails.
        let start = unsafe { result::malloc_host(bytes.max(1), flags) }.map_err(failed)?;
        let mut memory = Self { start, device: 0, bytes, stream: stream.clone() };
        // SAFETY: the memory just allocated, as mapped.
        unsafe { sys::cuMemHostGetDevicePointer_v2(&raw mut memory.device, start, 0) }.result().map_err(failed)?;
        Ok(memory)
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where kernels find it.
    pub fn device_pointer(&self) -> DevicePointer {
        self.device
    }

    /// All of it, to fill.
    ///
    /// # Safety
    /// Nothing that was started on the device before and is not done uses the memory.
    pub unsafe fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: memory of this value alone, which the host may write and read; borrowed with it.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.bytes) }
    }

    /// Starts to copy the first `bytes` of it to the device, on one of the GPU's streams.
    ///
    /// # Safety
    /// `to` has room for so many bytes; until the copy is done, nothing else uses them, and this memory does not change.
    pub(crate) unsafe fn upload(&self, to: DevicePointer, bytes: usize, stream: sys::CUstream) -> Result<()> {
        let from = self.host_pointer(bytes)?;
        self.stream.enter()?;
        // SAFETY: the caller's promise; the size was checked.
        unsafe { sys::cuMemcpyHtoDAsync_v2(to, from, bytes, stream) }
            .result()
            .map_err(|error| CudaError::new(format!("copying {bytes} bytes from locked host memory"), &error))
    }

    /// Where the host finds it, for copies of `bytes`.
    ///
    /// Errors: it has fewer.
    pub(crate) fn host_pointer(&self, bytes: usize) -> Result<*mut c_void> {
        if bytes <= self.bytes {
            return Ok(self.start);
        }
        Err(CudaError {
            what: format!("copying {bytes} bytes from or to locked host memory"),
            message: format!("it has {}", self.bytes),
            out_of_memory: false,
        })
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        if self.stream.enter().is_err() {
            return;
        }
        // Copies on one stream and kernels on another may still be at it. Their errors are told by the calls that wait for them.
        let _ = result::ctx::synchronize();
        // SAFETY: from `malloc_host`; nothing uses it any more.
        let _ = unsafe { result::free_host(self.start) };
    }
}
