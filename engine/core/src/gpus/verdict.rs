//! What of a machine's GPUs can be used, and why not. Pure: the libraries are behind traits, so that every answer is tested without them.

use super::driver::{DriverGpu, DriverSource};
use super::management::ManagementSource;
use super::{Gpu, GpuProbe, MINIMUM_COMPUTE_CAPABILITY, MINIMUM_CUDA_VERSION};

/// `CUDA_ERROR_STUB_LIBRARY`, `CUDA_ERROR_NO_DEVICE`, as they end a message of the driver.
const STUB: &str = "(CUDA error 34)";
const NO_DEVICE: &str = "(CUDA error 100)";

const DRIVER: &str = "install NVIDIA's driver 580 or later";
const HIDDEN: &str = "where there is one, see whether CUDA_VISIBLE_DEVICES or the container keeps it from this process";

/// The driver's context and the libraries take 0.6 GiB, an engine without a model a little more.
const LEAST_FREE_BYTES: u64 = 1 << 30;

/// Asks the driver for everything, as far as it answers.
pub(super) fn judge(driver: &impl DriverSource, management: Option<&impl ManagementSource>) -> GpuProbe {
    let cuda_version = driver.cuda_version();
    let mut found = GpuProbe {
        driver_version: management.and_then(ManagementSource::driver_version),
        cuda_version: cuda_version.as_ref().ok().map(|version| dotted(*version)),
        ..GpuProbe::default()
    };
    // Where it does not tell its version, what it says to being initialised tells more.
    let old = match cuda_version {
        Ok(version) if version < MINIMUM_CUDA_VERSION => Some(too_old(version, found.driver_version.as_deref())),
        _ => None,
    };
    match gpus(driver, management) {
        Ok(gpus) => found.gpus = gpus,
        Err(problem) => found.problem = Some(problem),
    }
    // A driver that is too old fails in ways that do not name the cause.
    found.problem = old.or(found.problem).or_else(|| none_usable(&found.gpus));
    found
}

fn gpus(driver: &impl DriverSource, management: Option<&impl ManagementSource>) -> Result<Vec<Gpu>, String> {
    driver.initialize().map_err(|error| {
        if error.ends_with(NO_DEVICE) {
            return format!("the NVIDIA driver shows no GPU; {HIDDEN}");
        }
        if error.ends_with(STUB) {
            let stub = "libcuda.so.1 is the stub that programs are linked against, not a driver";
            return format!("{stub}; {DRIVER}, and take the stub's folder off LD_LIBRARY_PATH");
        }
        format!("the NVIDIA driver does not start: {error}; see what `nvidia-smi` says, and {DRIVER}")
    })?;
    let failed = |error| format!("the NVIDIA driver fails: {error}; see what `nvidia-smi` says");
    (0..driver.count().map_err(failed)?)
        .map(|index| driver.gpu(index).map(|gpu| describe(index, gpu, management)).map_err(failed))
        .collect()
}

fn describe(index: u32, gpu: DriverGpu, management: Option<&impl ManagementSource>) -> Gpu {
    let (major, minor) = gpu.compute_capability;
    let (least_major, least_minor) = MINIMUM_COMPUTE_CAPABILITY;
    let old = (gpu.compute_capability < MINIMUM_COMPUTE_CAPABILITY).then(|| {
        format!(
            "{} is a GPU of an unsupported generation: it has compute capability {major}.{minor}; {least_major}.{least_minor} (Ampere) or \
             later is needed",
            gpu.name
        )
    });
    // Of a GPU that is cut into instances, the whole is counted there.
    let free = management.and_then(|library| library.free_memory(&gpu.bus_address));
    let full = free.filter(|free| *free < LEAST_FREE_BYTES).map(|free| {
        let (name, mebibytes, total) = (&gpu.name, free >> 20, gpu.total_memory_bytes >> 20);
        format!(
            "{name} is full: {mebibytes} MiB of {total} MiB are free; end what uses it, at least 1024 MiB are needed"
        )
    });
    Gpu {
        index,
        name: gpu.name,
        compute_capability: gpu.compute_capability,
        total_memory_bytes: gpu.total_memory_bytes,
        free_memory_bytes: free.map(|free| free.min(gpu.total_memory_bytes)),
        problem: old.or(full),
    }
}

fn none_usable(gpus: &[Gpu]) -> Option<String> {
    match gpus {
        [] => Some(format!("the NVIDIA driver shows no GPU; {HIDDEN}")),
        [first, ..] if gpus.iter().all(|gpu| gpu.problem.is_some()) => first.problem.clone(),
        _ => None,
    }
}

fn dotted(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

fn too_old(version: i32, driver: Option<&str>) -> String {
    let driver = driver.map(|version| format!(" {version}")).unwrap_or_default();
    let (found, needed) = (dotted(version), dotted(MINIMUM_CUDA_VERSION));
    format!("the NVIDIA driver{driver} is too old: it supports CUDA {found}, and {needed} is needed; {DRIVER}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A driver with GPUs of a test; the errors are what it answers instead.
    struct FakeDriver {
        version: i32,
        start: Result<(), String>,
        gpus: Vec<Result<DriverGpu, String>>,
    }

    impl DriverSource for FakeDriver {
        fn cuda_version(&self) -> Result<i32, String> {
            if self.version == 0 { Err("invalid (CUDA error 1)".to_owned()) } else { Ok(self.version) }
        }
        fn initialize(&self) -> Result<(), String> {
            self.start.clone()
        }
        fn count(&self) -> Result<u32, String> {
            Ok(self.gpus.len() as u32)
        }
        fn gpu(&self, index: u32) -> Result<DriverGpu, String> {
            self.gpus[index as usize].clone()
        }
    }

    struct FakeManagement;

    impl ManagementSource for FakeManagement {
        fn driver_version(&self) -> Option<String> {
            Some("570.1".to_owned())
        }
        fn free_memory(&self, bus_address: &str) -> Option<u64> {
            match bus_address {
                "a" => Some(1 << 40),
                "full" => Some(300 << 20),
                _ => None,
            }
        }
    }

    fn gpu(name: &str, compute_capability: (i32, i32), bus_address: &str) -> Result<DriverGpu, String> {
        let (name, bus_address) = (name.to_owned(), bus_address.to_owned());
        Ok(DriverGpu { name, compute_capability, total_memory_bytes: 80 << 30, bus_address })
    }

    fn judged(version: i32, start: Result<(), &str>, gpus: Vec<Result<DriverGpu, String>>) -> GpuProbe {
        judge(&FakeDriver { version, start: start.map_err(str::to_owned), gpus }, Some(&FakeManagement))
    }

    fn problem(found: &GpuProbe) -> &str {
        found.problem.as_deref().expect("a problem")
    }

    #[test]
    fn gpus_with_their_numbers_and_no_problem_where_one_can_be_used() {
        let found = judged(13_010, Ok(()), vec![gpu("T4", (7, 5), "b"), gpu("H100", (9, 0), "a")]);
        assert_eq!((found.problem.as_deref(), found.cuda_version.as_deref()), (None, Some("13.1")));
        assert_eq!(found.gpus[1].index, 1);
        assert_eq!((found.gpus[1].problem.as_deref(), found.gpus[1].compute_capability), (None, (9, 0)));
        assert!(found.gpus[0].problem.as_deref().is_some_and(|text| text.contains("unsupported generation")));
        // Never more than there is in all; unknown where the library does not know the address.
        assert_eq!(found.gpus[1].free_memory_bytes, Some(80 << 30));
        assert_eq!(found.gpus[0].free_memory_bytes, None);
    }

    #[test]
    fn only_old_gpus_are_the_problem_itself() {
        let found = judged(13_000, Ok(()), vec![gpu("Tesla T4", (7, 5), "a")]);
        let expected = "Tesla T4 is a GPU of an unsupported generation: it has compute capability 7.5; 8.0 (Ampere) or later is needed";
        assert_eq!(problem(&found), expected);
    }

    #[test]
    fn a_full_gpu_is_passed_over_and_named_where_there_is_no_other() {
        let expected = "H100 is full: 300 MiB of 81920 MiB are free; end what uses it, at least 1024 MiB are needed";
        let found = judged(13_000, Ok(()), vec![gpu("H100", (9, 0), "full"), gpu("A100", (8, 0), "a")]);
        assert_eq!((found.problem.as_deref(), found.gpus[0].problem.as_deref()), (None, Some(expected)));
        assert_eq!(found.gpus[1].problem, None);
        assert_eq!(problem(&judged(13_000, Ok(()), vec![gpu("H100", (9, 0), "full")])), expected);
    }

    #[test]
    fn an_old_driver_is_named_with_what_it_needs_and_its_gpus_are_listed() {
        let found = judged(12_080, Ok(()), vec![gpu("A100", (8, 0), "a")]);
        let expected = "the NVIDIA driver 570.1 is too old: it supports CUDA 12.8, and 13.0 is needed; install NVIDIA's driver 580 or later";
        assert_eq!(problem(&found), expected);
        assert_eq!(found.gpus.len(), 1);
        // Also where it does not even start.
        assert_eq!(problem(&judged(12_080, Err("unknown (CUDA error 999)"), vec![])), expected);
    }

    #[test]
    fn a_driver_that_does_not_start_says_why() {
        let found = judged(13_000, Err("no CUDA-capable device is detected (CUDA error 100)"), vec![]);
        assert!(problem(&found).starts_with("the NVIDIA driver shows no GPU; "));
        let found = judged(0, Err("stub library (CUDA error 34)"), vec![]);
        assert!(problem(&found).contains("is the stub"));
        assert_eq!(found.cuda_version, None);
        let found = judged(13_000, Err("system not yet initialized (CUDA error 802)"), vec![]);
        assert!(problem(&found).contains("does not start: system not yet initialized (CUDA error 802)"));
        assert_eq!(found.driver_version.as_deref(), Some("570.1"));
    }

    #[test]
    fn a_driver_without_gpus_or_with_one_that_fails() {
        assert!(problem(&judged(13_000, Ok(()), vec![])).starts_with("the NVIDIA driver shows no GPU"));
        let found = judged(13_000, Ok(()), vec![gpu("H100", (9, 0), "a"), Err("lost (CUDA error 46)".to_owned())]);
        assert!(problem(&found).starts_with("the NVIDIA driver fails: lost (CUDA error 46)"));
    }
}
