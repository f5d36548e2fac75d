//! The device that single-precision tests run on: the processor, or the GPU that `LUTHIER_TEST_GPU` numbers where the engine was built with
//! the feature `cuda`, in exact f32.

/// The GPU to test on.
#[cfg(feature = "cuda")]
pub fn gpu() -> Option<usize> {
    Some(std::env::var("LUTHIER_TEST_GPU").ok()?.parse().expect("LUTHIER_TEST_GPU is the number of a GPU"))
}

/// Calls `$run(device, arguments)` with the device, shared.
macro_rules! on_device {
    ($run:ident($($argument:expr),*)) => {{
        #[cfg(feature = "cuda")]
        if let Some(ordinal) = crate::device::gpu() {
            use luthier_core::ops::cuda::{CudaOps, NumberType};
            return $run(std::sync::Arc::new(CudaOps::open(ordinal, NumberType::F32).unwrap()), $($argument),*);
        }
        $run(std::sync::Arc::new(luthier_core::ops::cpu::CpuOps::<f32>::new(2)), $($argument),*)
    }};
}
pub(crate) use on_device;
