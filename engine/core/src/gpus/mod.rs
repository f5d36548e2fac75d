//! Which GPUs there are, found without linking anything: the driver's libraries are opened where they exist, so that every build of the
//! engine can say what a machine has. Knows nothing of computing on them.

mod driver;
mod library;
mod management;
mod verdict;

pub use library::library_problem;

use driver::CudaDriver;
use management::Management;

/// Lowest version of the CUDA driver interface, as `cuDriverGetVersion` gives it: CUDA 13.0, which NVIDIA's driver 580 brought.
pub const MINIMUM_CUDA_VERSION: i32 = 13_000;

/// Lowest compute capability: Ampere, the first with bf16 tensor cores.
pub const MINIMUM_COMPUTE_CAPABILITY: (i32, i32) = (8, 0);

/// One GPU as the driver shows it to this process: `CUDA_VISIBLE_DEVICES` hides and reorders them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// The n of `cuda:n`.
    pub index: u32,
    pub name: String,
    /// Such as (9, 0).
    pub compute_capability: (i32, i32),
    pub total_memory_bytes: u64,
    /// Not held by any process now; none where NVIDIA's management library does not say.
    pub free_memory_bytes: Option<u64>,
    /// Why the engine cannot compute on it, and what to do.
    pub problem: Option<String>,
}

/// What a machine has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuProbe {
    /// Version of NVIDIA's driver, such as `580.95.05`; none where its management library does not say.
    pub driver_version: Option<String>,
    /// Highest CUDA version the driver supports, such as `13.0`; none without a driver.
    pub cuda_version: Option<String>,
    /// All that were found, also those that cannot be used.
    pub gpus: Vec<Gpu>,
    /// Why none of them can be used, and what to do; none where at least one can.
    pub problem: Option<String>,
}

/// Looks for GPUs. Never fails: where there is none that can be used, the answer says why.
///
/// Initialises the driver in this process, which takes up to some seconds where no other process keeps the GPUs awake. Uses no memory of
/// theirs.
pub fn probe() -> GpuProbe {
    let management = Management::open();
    match CudaDriver::open() {
        Ok(driver) => verdict::judge(&driver, management.as_ref()),
        Err(problem) => GpuProbe {
            driver_version: management.as_ref().and_then(management::ManagementSource::driver_version),
            problem: Some(problem),
            ..GpuProbe::default()
        },
    }
}
