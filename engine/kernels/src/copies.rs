//! A stream for copies beside the computation, and events, by which two streams keep order.

use std::sync::Arc;

use cudarc::driver::{result, sys};

use crate::error::{CudaError, Result};
use crate::pinned::PinnedMemory;
use crate::stream::{DevicePointer, Stream};

/// A point in a stream's work that another stream, or the host, can wait for. Recorded anew, it stands for the later point; who waits already
/// waits for the earlier one.
pub struct Event {
    event: sys::CUevent,
    /// Keeps the context.
    stream: Arc<Stream>,
}

// SAFETY: a handle of the driver, whose functions may be called from any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// An event that was never recorded: waiting for it is over at once.
    pub fn new(stream: &Arc<Stream>) -> Result<Self> {
        stream.enter()?;
        Self::with(stream, sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// As [`Self::new`]; recorded, it also says when.
    pub fn timed(stream: &Arc<Stream>) -> Result<Self> {
        stream.enter()?;
        Self::with(stream, sys::CUevent_flags::CU_EVENT_DEFAULT)
    }

    fn with(stream: &Arc<Stream>, flags: sys::CUevent_flags) -> Result<Self> {
        let event = result::event::create(flags).map_err(|error| CudaError::new("making an event", &error))?;
        Ok(Self { event, stream: stream.clone() })
    }

    /// Whether the work before it is done.
    ///
    /// Errors: also those of that work.
    pub fn is_done(&self) -> Result<bool> {
        self.stream.enter()?;
        // SAFETY: the event lives as long as `self`.
        match unsafe { result::event::query(self.event) } {
            Ok(()) => Ok(true),
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            Err(error) => Err(CudaError::new("asking for an event", &error)),
        }
    }

    /// Seconds from `earlier` to this one, both timed and done.
    pub fn seconds_since(&self, earlier: &Self) -> Result<f64> {
        self.stream.enter()?;
        // SAFETY: both events live as long as they are borrowed.
        unsafe { result::event::elapsed(earlier.event, self.event) }
            .map(|milliseconds| f64::from(milliseconds) / 1000.0)
            .map_err(|error| CudaError::new("asking for a time", &error))
    }

    /// Waits on the host.
    ///
    /// Errors: also those of the work before the event.
    pub fn synchronize(&self) -> Result<()> {
        self.stream.enter()?;
        // SAFETY: the event lives as long as `self`.
        unsafe { result::event::synchronize(self.event) }.map_err(|error| CudaError::new("waiting for a copy", &error))
    }

    fn record_in(&self, stream: sys::CUstream) -> Result<()> {
        self.stream.enter()?;
        // SAFETY: event and stream are of one context and alive.
        unsafe { result::event::record(self.event, stream) }
            .map_err(|error| CudaError::new("recording an event", &error))
    }

    fn delay(&self, stream: sys::CUstream) -> Result<()> {
        self.stream.enter()?;
        // SAFETY: as above.
        unsafe { result::stream::wait_event(stream, self.event, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT) }
            .map_err(|error| CudaError::new("waiting for an event", &error))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.stream.enter().is_ok() {
            // SAFETY: made by `new`, used no more; the driver keeps what is still waited for.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}

impl Stream {
    /// Makes `event` stand for everything so far.
    pub fn record(&self, event: &Event) -> Result<()> {
        event.record_in(self.raw())
    }

    /// Puts off what follows here until what `event` stands for is done.
    pub fn wait(&self, event: &Event) -> Result<()> {
        event.delay(self.raw())
    }
}

/// A second stream of a GPU: copies between its memory and locked memory of the host, or between GPUs, in the order of the calls. Only events
/// order it with the first stream.
pub struct CopyStream {
    copies: sys::CUstream,
    stream: Arc<Stream>,
}

// SAFETY: a handle of the driver, whose functions may be called from any thread.
unsafe impl Send for CopyStream {}
// SAFETY: as above.
unsafe impl Sync for CopyStream {}

impl CopyStream {
    /// Beside `stream`, on the same GPU.
    pub fn new(stream: Arc<Stream>) -> Result<Self> {
        stream.enter()?;
        let copies = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(|error| CudaError::new("making a stream for copies", &error))?;
        Ok(Self { copies, stream })
    }

    /// The stream's handle, for libraries.
    pub(crate) fn raw(&self) -> sys::CUstream {
        self.copies
    }

    /// As [`Stream::record`].
    pub fn record(&self, event: &Event) -> Result<()> {
        event.record_in(self.copies)
    }

    /// As [`Stream::wait`].
    pub fn wait(&self, event: &Event) -> Result<()> {
        event.delay(self.copies)
    }

    /// Starts to copy the first `bytes` of `to` from the device.
    ///
    /// # Safety
    /// `from` holds so many bytes; until the copy is done, they do not change, and nothing else uses `to`.
    pub unsafe fn to_host(&self, from: DevicePointer, to: &PinnedMemory, bytes: usize) -> Result<()> {
        let to = to.host_pointer(bytes)?;
        self.stream.enter()?;
        // SAFETY: the caller's promise; the room was checked.
        unsafe { sys::cuMemcpyDtoHAsync_v2(to, from, bytes, self.copies) }
            .result()
            .map_err(|error| CudaError::new(format!("copying {bytes} bytes to locked host memory"), &error))
    }

    /// Starts to copy the first `bytes` of `from` to the device.
    ///
    /// # Safety
    /// `to` has room for so many bytes; until the copy is done, nothing else uses them, and `from` does not change.
    pub unsafe fn to_device(&self, from: &PinnedMemory, to: DevicePointer, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { from.upload(to, bytes, self.copies) }
    }
}

impl Drop for CopyStream {
    fn drop(&mut self) {
        if self.stream.enter().is_err() {
            return;
        }
        // SAFETY: made by `new`, used no more; errors of the last copies have nobody to tell.
        unsafe {
            let _ = result::stream::synchronize(self.copies);
            let _ = result::stream::destroy(self.copies);
        }
    }
}
