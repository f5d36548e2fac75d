//! A device, its stream and the loaded kernels.

use std::collections::HashMap;
use std::ffi::{CStr, c_void};

use cudarc::driver::{DriverError, result, sys};

use crate::error::{CudaError, Result};
use crate::pinned::PinnedMemory;

/// An address on the device.
pub type DevicePointer = sys::CUdeviceptr;

/// How numbers are stored on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NumberType {
    F32,
    F16,
    BF16,
}

impl NumberType {
    /// As kernels are named.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        }
    }

    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }
}

macro_rules! modules {
    ($($name:literal),*) => { [$(include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".fatbin")).as_slice()),*] };
}

/// One GPU's primary context with a stream of its own. Work is done in the order of the calls; only what says so waits for it.
pub struct Stream {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    modules: Vec<sys::CUmodule>,
    functions: HashMap<String, Function>,
    /// Major and minor number.
    compute_capability: (i32, i32),
    multiprocessors: usize,
}

#[derive(Clone, Copy)]
struct Function(sys::CUfunction);

// SAFETY: handles of the driver, whose functions may be called from any thread; each call makes the context current first.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}
// SAFETY: as above.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

/// Grid, block and dynamic shared memory of a launch.
pub(crate) struct Launch {
    pub grid: [u32; 3],
    pub threads: u32,
    pub shared_bytes: u32,
}

impl Launch {
    /// One block of `threads` for each of `blocks`.
    pub fn blocks(blocks: usize, threads: u32) -> Self {
        Self { grid: [blocks as u32, 1, 1], threads, shared_bytes: 0 }
    }

    /// Enough blocks for a loop over `len` numbers, a few for each multiprocessor.
    pub fn numbers(len: usize, each: usize) -> Self {
        const THREADS: usize = 256;
        const MOST: usize = 2112;
        Self::blocks(len.div_ceil(THREADS * each).clamp(1, MOST), THREADS as u32)
    }
}

impl Stream {
    /// Opens GPU `ordinal`.
    ///
    /// Errors: no such device, or a driver too old for the kernels.
    pub fn open(ordinal: usize) -> Result<Self> {
        let failed = |what: &str| {
            let what = format!("{what} GPU {ordinal}");
            move |error| CudaError::new(what, &error)
        };
        result::init().map_err(failed("starting the driver for"))?;
        let device = result::device::get(ordinal as i32).map_err(failed("finding"))?;
        // SAFETY: a device that the driver just gave.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(failed("opening"))?;
        // SAFETY: the context just made.
        unsafe { result::ctx::set_current(context) }.map_err(failed("opening"))?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(failed("opening"))?;
        let images = modules![
            "adamw_8bit",
            "attention",
            "attention_tensor_cores",
            "cached_attention",
            "cross_entropy",
            "dequantize",
            "dropout",
            "elementwise",
            "ggml",
            "linear",
            "low_rank",
            "noise",
            "optimizer",
            "rms_norm"
        ];
        let load = |image: &[u8]| {
            // SAFETY: a fat binary made by nvcc, which knows its own length.
            unsafe { result::module::load_data(image.as_ptr().cast::<c_void>()) }.map_err(failed("loading kernels on"))
        };
        let modules = images.into_iter().map(load).collect::<Result<Vec<_>>>()?;
        let mut functions = HashMap::new();
        for module in &modules {
            // SAFETY: a module just loaded.
            unsafe { functions_of(*module, &mut functions) }.map_err(failed("loading kernels on"))?;
        }
        // SAFETY: a device that the driver gave.
        let attribute =
            |attribute| unsafe { result::device::get_attribute(device, attribute) }.map_err(failed("asking"));
        use sys::CUdevice_attribute_enum as Attribute;
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize;
        Ok(Self { device, context, stream, modules, functions, compute_capability: (major, minor), multiprocessors })
    }

    /// Whether kernels of compute capability 9.0 alone run here.
    pub(crate) fn has_warpgroup_products(&self) -> bool {
        self.compute_capability == (9, 0)
    }

    /// Major and minor.
    pub fn compute_capability(&self) -> (i32, i32) {
        self.compute_capability
    }

    /// The CUDA version that the driver was made for: 1000 · major + 10 · minor.
    pub fn driver_version() -> Result<i32> {
        let mut version = 0;
        // SAFETY: a place for one number.
        unsafe { sys::cuDriverGetVersion(&raw mut version) }
            .result()
            .map_err(|error| CudaError::new("asking for the driver's version", &error))?;
        Ok(version)
    }

    pub(crate) fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    /// Makes the context the calling thread's; every function here does.
    pub fn enter(&self) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        unsafe { result::ctx::set_current(self.context) }
            .map_err(|error| CudaError::new("entering the context", &error))
    }

    /// The stream's handle, for libraries.
    pub fn raw(&self) -> sys::CUstream {
        self.stream
    }

    /// `bytes` of device memory, not cleared.
    pub fn allocate(&self, bytes: usize) -> Result<DevicePointer> {
        self.enter()?;
        // SAFETY: plain memory, given back by `free`.
        unsafe { result::malloc_sync(bytes.max(1)) }
            .map_err(|error| CudaError::new(format!("allocating {bytes} bytes"), &error))
    }

    /// Gives memory back, once what is under way is done.
    ///
    /// # Safety
    /// `pointer` came from [`Self::allocate`] and is not used again.
    pub unsafe fn free(&self, pointer: DevicePointer) {
        if self.enter().is_ok() {
            // SAFETY: the caller's promise. An error here is one of earlier work, which its own call reports.
            let _ = unsafe { result::free_sync(pointer) };
        }
    }

    /// `(free, total)` bytes as the driver counts them.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.enter()?;
        result::mem_get_info().map_err(|error| CudaError::new("asking for free memory", &error))
    }

    /// The GPU's name.
    pub fn name(&self) -> Result<String> {
        result::device::get_name(self.device).map_err(|error| CudaError::new("asking for the GPU's name", &error))
    }

    /// Waits for everything so far.
    ///
    /// Errors: also those of earlier work.
    pub fn synchronize(&self) -> Result<()> {
        self.enter()?;
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream) }
            .map_err(|error| CudaError::new("waiting for the device", &error))
    }

    /// Copies to the device; the values may be changed once this returns.
    ///
    /// # Safety
    /// `to` has room for the values.
    pub unsafe fn upload<T: Copy>(&self, values: &[T], to: DevicePointer) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's promise; pageable memory is staged before the call returns.
        unsafe { result::memcpy_htod_async(to, values, self.stream) }
            .map_err(|error| CudaError::new("copying to the device", &error))
    }

    /// Starts to copy the first `bytes` of `from` to the device.
    ///
    /// # Safety
    /// `to` has room for so many bytes; `from` does not change until the copy is done.
    pub unsafe fn upload_locked(&self, from: &PinnedMemory, to: DevicePointer, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { from.upload(to, bytes, self.stream) }
    }

    /// Copies to the host and waits.
    ///
    /// # Safety
    /// `from` holds as many values.
    pub unsafe fn download<T: Copy>(&self, from: DevicePointer, values: &mut [T]) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's promise; the wait below outlives the copy.
        unsafe { result::memcpy_dtoh_async(values, from, self.stream) }
            .map_err(|error| CudaError::new("copying from the device", &error))?;
        self.synchronize()
    }

    /// Sets bytes to zero.
    ///
    /// # Safety
    /// `at` has so many bytes.
    pub unsafe fn clear(&self, at: DevicePointer, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's promise.
        unsafe { result::memset_d8_async(at, 0, bytes, self.stream) }
            .map_err(|error| CudaError::new("clearing memory", &error))
    }

    fn function(&self, name: &str) -> Result<sys::CUfunction> {
        self.functions.get(name).map(|found| found.0).ok_or_else(|| CudaError {
            what: format!("starting `{name}`"),
            message: "no kernel has this name".to_owned(),
            out_of_memory: false,
        })
    }

    /// Starts a kernel.
    ///
    /// # Safety
    /// `arguments` point to values of the kernel's parameter types; what they point to on the device fits the kernel's use.
    pub(crate) unsafe fn launch(&self, name: &str, launch: &Launch, arguments: &mut [*mut c_void]) -> Result<()> {
        /// What a kernel may use without being told.
        const ORDINARY_SHARED_BYTES: u32 = 48 << 10;
        self.enter()?;
        let function = self.function(name)?;
        let failed = |error| CudaError::new(format!("starting `{name}`"), &error);
        let Launch { grid: [x, y, z], threads, shared_bytes } = *launch;
        // SAFETY: the caller's promise; the attribute is one that every kernel has.
        unsafe {
            if shared_bytes > ORDINARY_SHARED_BYTES {
                let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                result::function::set_function_attribute(function, attribute, shared_bytes as i32).map_err(failed)?;
            }
            result::launch_kernel(function, (x, y, z), (threads, 1, 1), shared_bytes, self.stream, arguments)
                .map_err(failed)
        }
    }
}

/// Adds a module's kernels by their names.
///
/// # Safety
/// The module is loaded, and its context current.
unsafe fn functions_of(
    module: sys::CUmodule,
    functions: &mut HashMap<String, Function>,
) -> std::result::Result<(), DriverError> {
    let mut count = 0;
    // SAFETY: the caller's promise; the list has room for as many handles as there are, and names live as long as the module.
    unsafe {
        sys::cuModuleGetFunctionCount(&raw mut count, module).result()?;
        let mut handles = vec![std::ptr::null_mut(); count as usize];
        sys::cuModuleEnumerateFunctions(handles.as_mut_ptr(), count, module).result()?;
        for handle in handles {
            let mut name = std::ptr::null();
            sys::cuFuncGetName(&raw mut name, handle).result()?;
            functions.insert(CStr::from_ptr(name).to_string_lossy().into_owned(), Function(handle));
        }
    }
    Ok(())
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.synchronize().is_err() {
            return;
        }
        // SAFETY: made by `open`, used no more; the process may be ending, so errors have nobody to tell.
        unsafe {
            for module in &self.modules {
                let _ = result::module::unload(*module);
            }
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

/// Starts a kernel with arguments of the parameters' types, in order.
macro_rules! launch {
    ($stream:expr, $name:expr, $launch:expr, $($argument:expr),+ $(,)?) => {
        $stream.launch($name, &$launch, &mut [$(std::ptr::from_ref(&$argument).cast_mut().cast::<std::ffi::c_void>()),+])
    };
}
pub(crate) use launch;
