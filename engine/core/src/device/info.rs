//! What the device is.

use crate::ops::cpu::Real;
use crate::system::meminfo_bytes;

/// Field for field the `EngineInfo` of `src/engine/engine.ts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    pub version: String,
    /// `cpu` or `cuda:n`.
    pub device: String,
    /// All that train together, by rank: `device` alone, or it and others; the processor's ranks are `cpu:0`, `cpu:1`, ….
    pub devices: Vec<String>,
    /// Its name, as the system or the driver gives it.
    pub device_name: String,
    /// Threads of the processor; where a GPU computes, they only load models.
    pub threads: usize,
    /// Of the processor: `avx512`, `avx2` or `scalar`.
    pub instruction_set: String,
    /// Type of the activations in training, as torch names it: `float32`, `bfloat16` or `float16`.
    pub compute_dtype: String,
    /// What computes attention in training, for people: `own kernels`, or a library with its version.
    pub attention: String,
    /// Of the device.
    pub total_memory_bytes: u64,
}

impl DeviceInfo {
    pub(super) fn of_processor(threads: usize) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device: "cpu".to_owned(),
            devices: vec!["cpu".to_owned()],
            device_name: processor_name().unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            threads,
            instruction_set: f32::kernels().name.to_owned(),
            compute_dtype: "float32".to_owned(),
            attention: "own kernels".to_owned(),
            total_memory_bytes: meminfo_bytes("MemTotal").unwrap_or(0),
        }
    }
}

/// `model name` of `/proc/cpuinfo`.
fn processor_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
