//! NVIDIA's management library (`nvml.h`), opened at run time. It comes with the driver and is not always installed; it knows what the driver
//! tells only to a process that computes.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};

use libloading::Library;

use super::library::{open, symbol};

/// `nvmlReturn_t`; 0: done.
type Status = c_int;
/// `nvmlDevice_t`.
type Handle = *mut c_void;

/// `NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE`.
const VERSION_BYTES: usize = 80;

/// `nvmlMemory_t`, all in bytes.
#[repr(C)]
#[derive(Default)]
struct Memory {
    total: u64,
    free: u64,
    used: u64,
}

/// What is asked of the management library; none where it does not say.
pub(super) trait ManagementSource {
    /// Such as `580.95.05`.
    fn driver_version(&self) -> Option<String>;
    /// Bytes that no process holds, of the GPU at a bus address.
    fn free_memory(&self, bus_address: &str) -> Option<u64>;
}

/// The functions that are used, and the library that holds them.
pub(super) struct Management {
    shutdown: unsafe extern "C" fn() -> Status,
    driver_version: unsafe extern "C" fn(*mut c_char, c_uint) -> Status,
    device: unsafe extern "C" fn(*const c_char, *mut Handle) -> Status,
    device_memory: unsafe extern "C" fn(Handle, *mut Memory) -> Status,
    /// Last, so that it outlives the functions.
    _library: Library,
}

impl Management {
    /// None where it is missing or does not start: nothing depends on it.
    pub(super) fn open() -> Option<Self> {
        Self::open_at("libnvidia-ml.so.1").ok()
    }

    fn open_at(name: &str) -> Result<Self, String> {
        let library = open(name)?;
        // SAFETY: the types are those of nvml.h.
        unsafe {
            let init: unsafe extern "C" fn() -> Status = symbol(&library, "nvmlInit_v2")?;
            let found = Self {
                shutdown: symbol(&library, "nvmlShutdown")?,
                driver_version: symbol(&library, "nvmlSystemGetDriverVersion")?,
                device: symbol(&library, "nvmlDeviceGetHandleByPciBusId_v2")?,
                device_memory: symbol(&library, "nvmlDeviceGetMemoryInfo")?,
                _library: library,
            };
            // Where it was not started, ending it is answered with an error that nobody reads.
            if init() == 0 { Ok(found) } else { Err(format!("{name} does not start")) }
        }
    }
}

impl ManagementSource for Management {
    fn driver_version(&self) -> Option<String> {
        let mut bytes = [0_u8; VERSION_BYTES];
        // SAFETY: the library writes at most as many bytes as it is told.
        let status = unsafe { (self.driver_version)(bytes.as_mut_ptr().cast(), VERSION_BYTES as c_uint) };
        let text = CStr::from_bytes_until_nul(&bytes).ok()?.to_str().ok()?;
        (status == 0).then(|| text.to_owned())
    }

    fn free_memory(&self, bus_address: &str) -> Option<u64> {
        let address = CString::new(bus_address).ok()?;
        let mut device = std::ptr::null_mut();
        let mut memory = Memory::default();
        // SAFETY: everything outlives the calls, and the handle is the library's own.
        let done = unsafe {
            (self.device)(address.as_ptr(), &raw mut device) == 0 && (self.device_memory)(device, &raw mut memory) == 0
        };
        done.then_some(memory.free)
    }
}

impl Drop for Management {
    fn drop(&mut self) {
        // SAFETY: no handle outlives this object.
        unsafe { (self.shutdown)() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_missing_or_another_one_is_no_management_library() {
        assert!(Management::open_at("libluthier-nowhere.so.1").is_err());
        #[cfg(target_os = "linux")]
        assert!(Management::open_at("libc.so.6").err().is_some_and(|error| error.contains("nvml")));
    }
}
