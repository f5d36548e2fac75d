//! Sums over GPUs by NVIDIA's NCCL (`nccl.h`), opened at run time.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use libloading::Library;

use crate::copies::{CopyStream, Event};
use crate::error::CudaError;
use crate::stream::{DevicePointer, Stream};

/// As the loader finds it.
const LIBRARY: &str = "libnccl.so.2";
/// `ncclUniqueId`.
const ID_BYTES: usize = 128;
/// `ncclFloat32`, `ncclSum`.
const FLOAT32: c_int = 7;
const SUM: c_int = 0;
/// `ncclResult_t`: done, and going on.
const SUCCESS: Status = 0;
const IN_PROGRESS: Status = 7;

/// `ncclResult_t`.
type Status = c_int;
/// `ncclComm_t`.
type Handle = *mut c_void;

#[repr(C)]
#[derive(Clone, Copy)]
struct Id([c_char; ID_BYTES]);

/// The functions that are used, and the library that holds them.
struct Nccl {
    unique_id: unsafe extern "C" fn(*mut Id) -> Status,
    init_rank: unsafe extern "C" fn(*mut Handle, c_int, Id, c_int) -> Status,
    all_reduce: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, *mut c_void) -> Status,
    async_error: unsafe extern "C" fn(Handle, *mut Status) -> Status,
    abort: unsafe extern "C" fn(Handle) -> Status,
    error_text: unsafe extern "C" fn(Status) -> *const c_char,
    /// Last, so that it outlives the functions.
    _library: Library,
}

/// Why NCCL did not do something, in words.
#[derive(Debug)]
pub struct NcclError(pub String);

impl std::fmt::Display for NcclError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for NcclError {}

impl From<CudaError> for NcclError {
    fn from(error: CudaError) -> Self {
        Self(error.to_string())
    }
}

type Result<T> = std::result::Result<T, NcclError>;

impl Nccl {
    fn open() -> std::result::Result<Self, String> {
        let words = |error: libloading::Error| {
            std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
        };
        // SAFETY: the initialisers of NCCL may run on any thread; the types are those of nccl.h.
        unsafe {
            let library = Library::new(LIBRARY).map_err(words)?;
            macro_rules! function {
                ($name:literal) => {
                    *library.get($name).map_err(words)?
                };
            }
            Ok(Self {
                unique_id: function!("ncclGetUniqueId"),
                init_rank: function!("ncclCommInitRank"),
                all_reduce: function!("ncclAllReduce"),
                async_error: function!("ncclCommGetAsyncError"),
                abort: function!("ncclCommAbort"),
                error_text: function!("ncclGetErrorString"),
                _library: library,
            })
        }
    }

    fn done(&self, what: &str, status: Status) -> Result<()> {
        if status == SUCCESS || status == IN_PROGRESS {
            return Ok(());
        }
        // SAFETY: a constant text of the library's.
        let text = unsafe { CStr::from_ptr((self.error_text)(status)) }.to_string_lossy();
        Err(NcclError(format!("{what}: {text} (NCCL error {status}); with NCCL_DEBUG=WARN it says more")))
    }
}

fn nccl() -> std::result::Result<&'static Nccl, &'static str> {
    static OPENED: OnceLock<std::result::Result<Nccl, String>> = OnceLock::new();
    OPENED.get_or_init(Nccl::open).as_ref().map_err(String::as_str)
}

fn opened() -> Result<&'static Nccl> {
    nccl().map_err(|problem| NcclError(problem.to_owned()))
}

/// Why NCCL cannot be opened, in the loader's words; none where it can.
pub fn nccl_problem() -> Option<&'static str> {
    nccl().err()
}

/// What the ranks of one group know it by; one rank makes it for all.
pub fn new_nccl_id() -> Result<Vec<u8>> {
    let (nccl, mut id) = (opened()?, Id([0; ID_BYTES]));
    // SAFETY: `id` outlives the call.
    nccl.done("making a group", unsafe { (nccl.unique_id)(&raw mut id) })?;
    Ok(id.0.iter().map(|byte| *byte as u8).collect())
}

/// One GPU's place in a group. Reductions go to a stream of their own, beside the computation.
pub struct Communicator {
    nccl: &'static Nccl,
    /// None once aborted.
    handle: Mutex<Option<Group>>,
    stream: Arc<Stream>,
    side: CopyStream,
    /// The computation up to the last reduction that was begun.
    ready: Event,
    summed: Event,
    /// When the computation came to wait for the reductions, and when it went on.
    waits: Event,
    goes_on: Event,
}

#[derive(Clone, Copy)]
struct Group(Handle);

// SAFETY: a handle that is used under a lock; NCCL's functions may be called from any thread.
unsafe impl Send for Group {}

impl Communicator {
    /// Joins a group of `ranks`; waits for the others.
    ///
    /// Errors: NCCL's words, as where one GPU is there twice.
    pub fn new(stream: Arc<Stream>, id: &[u8], ranks: usize, rank: usize) -> Result<Self> {
        let nccl = opened()?;
        let mut bytes = Id([0; ID_BYTES]);
        if id.len() != ID_BYTES {
            return Err(NcclError(format!("a group's id has {} bytes; expected {ID_BYTES}", id.len())));
        }
        for (to, byte) in bytes.0.iter_mut().zip(id) {
            *to = *byte as c_char;
        }
        let side = CopyStream::new(stream.clone())?;
        let (ready, summed) = (Event::new(&stream)?, Event::new(&stream)?);
        let (waits, goes_on) = (Event::timed(&stream)?, Event::timed(&stream)?);
        stream.enter()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: `handle` outlives the call; the GPU is that of the current context.
        let status = unsafe { (nccl.init_rank)(&raw mut handle, ranks as c_int, bytes, rank as c_int) };
        nccl.done("joining the other GPUs", status)?;
        Ok(Self { nccl, handle: Mutex::new(Some(Group(handle))), stream, side, ready, summed, waits, goes_on })
    }

    fn handle(&self) -> MutexGuard<'_, Option<Group>> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to replace `len` numbers by their sum over the group, after the computation so far.
    ///
    /// # Safety
    /// So many f32 lie at `at`; until [`Self::finish`] nothing else touches them. Every rank makes the same calls in the same order.
    pub unsafe fn sum(&self, at: DevicePointer, len: usize) -> Result<()> {
        let handle = self.handle();
        let Some(Group(group)) = *handle else { return Err(aborted()) };
        self.stream.record(&self.ready)?;
        self.side.wait(&self.ready)?;
        self.stream.enter()?;
        let (place, stream) = (at as *mut c_void, self.side.raw().cast());
        // SAFETY: the caller's promise; the group is alive while it is locked.
        let status = unsafe { (self.nccl.all_reduce)(place, place, len, FLOAT32, SUM, group, stream) };
        self.nccl.done("summing gradients", status)
    }

    /// What follows in the computation comes after all sums so far.
    pub fn finish(&self) -> Result<()> {
        self.stream.record(&self.waits)?;
        self.side.record(&self.summed)?;
        self.stream.wait(&self.summed)?;
        Ok(self.stream.record(&self.goes_on)?)
    }

    /// Whether the sums before [`Self::finish`] are there.
    ///
    /// Errors: those of the sums, and of the group.
    pub fn is_finished(&self) -> Result<bool> {
        let handle = self.handle();
        let Some(Group(group)) = *handle else { return Err(aborted()) };
        let mut status = SUCCESS;
        // SAFETY: `status` outlives the call; the group is alive while it is locked.
        self.nccl.done("asking for the sums", unsafe { (self.nccl.async_error)(group, &raw mut status) })?;
        self.nccl.done("summing gradients", status)?;
        Ok(self.goes_on.is_done()?)
    }

    /// Seconds that the computation has waited at the last [`Self::finish`], which is over.
    pub fn seconds(&self) -> Result<f64> {
        Ok(self.goes_on.seconds_since(&self.waits)?)
    }

    /// Ends what is under way; nothing more can be summed. Idempotent.
    pub fn abort(&self) {
        if let Some(Group(group)) = self.handle().take()
            && self.stream.enter().is_ok()
        {
            // SAFETY: the handle was taken: nobody else uses it. An error has nobody to tell.
            let _ = unsafe { (self.nccl.abort)(group) };
        }
    }
}

fn aborted() -> NcclError {
    NcclError("the group of GPUs was ended".to_owned())
}

impl Drop for Communicator {
    /// Ended, not destroyed: that would wait for the other ranks.
    fn drop(&mut self) {
        self.abort();
    }
}
