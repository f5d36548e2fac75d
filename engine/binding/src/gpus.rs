//! What GPUs this process sees, as plain objects of `src/engine/gpus.ts`.

use luthier_core::gpus::{self, Gpu, GpuProbe};
use napi::bindgen_prelude::{Either, Null};
use napi_derive::napi;

#[napi(object, object_from_js = false, use_nullable = true)]
pub struct NativeGpu {
    pub index: u32,
    pub name: String,
    pub compute_capability: String,
    pub total_memory_bytes: f64,
    pub free_memory_bytes: Option<f64>,
    pub problem: Option<String>,
}

impl From<Gpu> for NativeGpu {
    fn from(gpu: Gpu) -> Self {
        let (major, minor) = gpu.compute_capability;
        Self {
            index: gpu.index,
            name: gpu.name,
            compute_capability: format!("{major}.{minor}"),
            total_memory_bytes: gpu.total_memory_bytes as f64,
            free_memory_bytes: gpu.free_memory_bytes.map(|bytes| bytes as f64),
            problem: gpu.problem,
        }
    }
}

#[napi(object, object_from_js = false, use_nullable = true)]
pub struct NativeGpuProbe {
    pub driver_version: Option<String>,
    pub cuda_version: Option<String>,
    pub gpus: Vec<NativeGpu>,
    pub problem: Option<String>,
}

impl From<GpuProbe> for NativeGpuProbe {
    fn from(found: GpuProbe) -> Self {
        Self {
            driver_version: found.driver_version,
            cuda_version: found.cuda_version,
            gpus: found.gpus.into_iter().map(NativeGpu::from).collect(),
            problem: found.problem,
        }
    }
}

/// The machine's GPUs, or why none can be used. Needs no driver.
#[napi]
pub fn probe_gpus() -> NativeGpuProbe {
    gpus::probe().into()
}

/// Why a library cannot be opened by this process; null where it can.
#[napi]
pub fn library_problem(name: String) -> Either<String, Null> {
    gpus::library_problem(&name).map_or(Either::B(Null), Either::A)
}
