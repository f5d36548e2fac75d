//! NVIDIA's driver through its C interface (`cuda.h`), opened at run time.

use std::ffi::{CStr, c_char, c_int, c_uint};

use libloading::Library;

use super::library::{open, symbol};

/// `CUresult`; 0: done.
type Status = c_int;
/// `CUdevice`.
type Handle = c_int;

/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `…_MINOR`.
const CAPABILITY: (c_int, c_int) = (75, 76);
/// Bytes of a name or a bus address, the closing zero included; names are cut to fit.
const TEXT_BYTES: usize = 256;

/// What the driver knows of one GPU.
#[derive(Clone, Debug)]
pub(super) struct DriverGpu {
    pub name: String,
    pub compute_capability: (i32, i32),
    pub total_memory_bytes: u64,
    /// Such as `0000:04:00.0`, which other libraries know the GPU by.
    pub bus_address: String,
}

/// What is asked of a driver. Errors are the driver's number and words.
pub(super) trait DriverSource {
    /// 1000 × major + 10 × minor of CUDA; needs no `initialize`.
    fn cuda_version(&self) -> Result<i32, String>;
    fn initialize(&self) -> Result<(), String>;
    fn count(&self) -> Result<u32, String>;
    fn gpu(&self, index: u32) -> Result<DriverGpu, String>;
}

/// The functions that are used, and the library that holds them.
pub(super) struct CudaDriver {
    init: unsafe extern "C" fn(c_uint) -> Status,
    driver_version: unsafe extern "C" fn(*mut c_int) -> Status,
    device_count: unsafe extern "C" fn(*mut c_int) -> Status,
    device: unsafe extern "C" fn(*mut Handle, c_int) -> Status,
    device_name: unsafe extern "C" fn(*mut c_char, c_int, Handle) -> Status,
    device_attribute: unsafe extern "C" fn(*mut c_int, c_int, Handle) -> Status,
    device_memory: unsafe extern "C" fn(*mut usize, Handle) -> Status,
    device_bus_address: unsafe extern "C" fn(*mut c_char, c_int, Handle) -> Status,
    error_text: unsafe extern "C" fn(Status, *mut *const c_char) -> Status,
    /// Last, so that it outlives the functions.
    _library: Library,
}

impl CudaDriver {
    /// Errors: a sentence that says what to install.
    pub(super) fn open() -> Result<Self, String> {
        Self::open_at("libcuda.so.1")
    }

    fn open_at(name: &str) -> Result<Self, String> {
        let library = open(name).map_err(|error| {
            format!("there is no NVIDIA driver: {error}; install version 580 or later where there is a GPU")
        })?;
        // SAFETY: the types are those of cuda.h.
        unsafe { Self::of(library) }
            .map_err(|error| format!("the NVIDIA driver lacks a function: {error}; install version 580 or later"))
    }

    /// # Safety
    /// `library` must be NVIDIA's driver.
    unsafe fn of(library: Library) -> Result<Self, String> {
        // SAFETY: the caller's promise.
        unsafe {
            Ok(Self {
                init: symbol(&library, "cuInit")?,
                driver_version: symbol(&library, "cuDriverGetVersion")?,
                device_count: symbol(&library, "cuDeviceGetCount")?,
                device: symbol(&library, "cuDeviceGet")?,
                device_name: symbol(&library, "cuDeviceGetName")?,
                device_attribute: symbol(&library, "cuDeviceGetAttribute")?,
                device_memory: symbol(&library, "cuDeviceTotalMem_v2")?,
                device_bus_address: symbol(&library, "cuDeviceGetPCIBusId")?,
                error_text: symbol(&library, "cuGetErrorString")?,
                _library: library,
            })
        }
    }

    fn done(&self, status: Status) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        let mut text = std::ptr::null();
        // SAFETY: the driver sets a pointer to a constant of its own, or leaves null.
        let text = unsafe {
            (self.error_text)(status, &raw mut text);
            if text.is_null() { "unknown error".into() } else { CStr::from_ptr(text).to_string_lossy() }
        };
        Err(format!("{text} (CUDA error {status})"))
    }

    fn attribute(&self, attribute: c_int, device: Handle) -> Result<i32, String> {
        let mut value = 0;
        // SAFETY: `value` outlives the call.
        self.done(unsafe { (self.device_attribute)(&raw mut value, attribute, device) })?;
        Ok(value)
    }

    /// A text that the driver writes into a buffer of ours.
    fn text(
        &self,
        write: unsafe extern "C" fn(*mut c_char, c_int, Handle) -> Status,
        device: Handle,
    ) -> Result<String, String> {
        let mut bytes = [0_u8; TEXT_BYTES];
        // SAFETY: the driver writes at most as many bytes as it is told.
        self.done(unsafe { write(bytes.as_mut_ptr().cast(), TEXT_BYTES as c_int, device) })?;
        let text = CStr::from_bytes_until_nul(&bytes).map_err(|error| error.to_string())?;
        Ok(text.to_string_lossy().into_owned())
    }
}

impl DriverSource for CudaDriver {
    fn cuda_version(&self) -> Result<i32, String> {
        let mut version = 0;
        // SAFETY: `version` outlives the call.
        self.done(unsafe { (self.driver_version)(&raw mut version) })?;
        Ok(version)
    }

    fn initialize(&self) -> Result<(), String> {
        // SAFETY: may be called any number of times, from any thread.
        self.done(unsafe { (self.init)(0) })
    }

    fn count(&self) -> Result<u32, String> {
        let mut count = 0;
        // SAFETY: `count` outlives the call.
        self.done(unsafe { (self.device_count)(&raw mut count) })?;
        Ok(u32::try_from(count).unwrap_or(0))
    }

    fn gpu(&self, index: u32) -> Result<DriverGpu, String> {
        let (mut device, mut total_memory_bytes) = (0, 0);
        // SAFETY: both outlive the calls.
        self.done(unsafe { (self.device)(&raw mut device, index as c_int) })?;
        self.done(unsafe { (self.device_memory)(&raw mut total_memory_bytes, device) })?;
        Ok(DriverGpu {
            name: self.text(self.device_name, device)?,
            compute_capability: (self.attribute(CAPABILITY.0, device)?, self.attribute(CAPABILITY.1, device)?),
            total_memory_bytes: total_memory_bytes as u64,
            bus_address: self.text(self.device_bus_address, device)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_driver_the_error_says_what_to_install() {
        let problem = CudaDriver::open_at("libluthier-nowhere.so.1").err().expect("there is no such library");
        assert!(problem.starts_with("there is no NVIDIA driver: libluthier-nowhere.so.1"), "{problem}");
        assert!(problem.ends_with("install version 580 or later where there is a GPU"), "{problem}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_library_that_is_no_driver_is_refused_by_the_function_it_lacks() {
        let problem = CudaDriver::open_at("libc.so.6").err().expect("the C library has no CUDA functions");
        assert!(problem.contains("cuInit"), "{problem}");
    }
}
