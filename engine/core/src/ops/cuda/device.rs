//! The GPU as a device: what it holds besides buffers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use luthier_kernels::{Cudnn, DevicePointer, Multiplier, NORM_SCRATCH_BYTES, NumberType, Stream};

use super::memory::{Allocation, Memory};
use crate::error::{EngineError, Result};

/// 128 MiB of a 16-bit type: 1,000 rows of a vocabulary of 64,000.
pub(super) const LOGITS_AT_ONCE: usize = 64 << 20;

/// One GPU. Operations return at once and are done in order; reading waits.
pub struct CudaOps {
    pub(super) memory: Arc<Memory>,
    multiplier: Multiplier,
    /// Type of activations and of products with them.
    pub(super) compute: NumberType,
    /// For one operation at a time: a converted weight, or what attention needs. Grows to the largest use, so that a step after the first
    /// allocates nothing.
    pub(super) scratch: Mutex<Option<Allocation>>,
    /// Why attention is not cuDNN's, where it is not.
    pub(super) cudnn: std::result::Result<Cudnn, String>,
    pub(super) norm: Allocation,
}

impl CudaOps {
    /// Opens GPU `ordinal`; activations are kept and multiplied as `compute`. With f32, products are exact (no TF32).
    ///
    /// Errors: `INTERNAL` with the driver's words where there is no such GPU or it cannot run the kernels.
    pub fn open(ordinal: usize, compute: NumberType) -> Result<Self> {
        let stream = Arc::new(Stream::open(ordinal)?);
        let multiplier = Multiplier::new(stream.clone())?;
        let memory = Arc::new(Memory::new(stream)?);
        memory.count(multiplier.bytes() as u64);
        let norm = Allocation::new(&memory, NORM_SCRATCH_BYTES)?;
        let cudnn = Cudnn::open(memory.stream.clone());
        Ok(Self { memory, multiplier, compute, scratch: Mutex::default(), cudnn, norm })
    }

    /// The same device with attention by our own kernels only.
    #[must_use]
    pub fn without_cudnn(self) -> Self {
        Self { cudnn: Err("it was not asked for".to_owned()), ..self }
    }

    /// What attention is computed with, such as `cuDNN 9.19.0`, or `own kernels` and why.
    pub fn attention_library(&self) -> String {
        match &self.cudnn {
            Ok(_) => format!("cuDNN {}", Cudnn::version()),
            Err(reason) => format!("own kernels ({reason})"),
        }
    }

    /// The GPU, the type it computes in, and the versions of what computes on it. What the driver does not say is left out.
    pub(super) fn libraries(&self) -> BTreeMap<String, String> {
        let (major, minor) = self.stream().compute_capability();
        let found = [
            ("device", Some("gpu".to_owned())),
            ("gpu", self.stream().name().ok()),
            ("compute capability", Some(format!("{major}.{minor}"))),
            ("compute type", Some(self.compute.name().to_owned())),
            ("attention", Some(self.attention_library())),
            ("cublaslt", Some(Multiplier::library_version().to_string())),
            ("cuda driver", Stream::driver_version().ok().map(|version| version.to_string())),
        ];
        found.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    /// Type of activations and of products with them.
    pub fn compute(&self) -> NumberType {
        self.compute
    }

    /// Name of the GPU and bytes of its memory.
    pub fn describe(&self) -> Result<(String, u64)> {
        let (_, total) = self.stream().memory()?;
        Ok((self.stream().name()?, total as u64))
    }

    /// Waits for everything so far. Errors of earlier work show here, too.
    pub fn synchronize(&self) -> Result<()> {
        Ok(self.stream().synchronize()?)
    }

    pub(super) fn device_memory(&self) -> &Memory {
        &self.memory
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.memory.stream
    }

    pub(super) fn multiplier(&self) -> &Multiplier {
        &self.multiplier
    }

    /// Bytes taken when the device was opened.
    pub(super) fn own_bytes(&self) -> u64 {
        (self.multiplier.bytes() + self.norm.bytes()) as u64
    }

    /// Scratch of at least `bytes`. What is put there is used before the next call is worked on, as the stream keeps order.
    pub(super) fn scratch(&self, bytes: usize) -> Result<DevicePointer> {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        if scratch.as_ref().is_none_or(|found| found.bytes() < bytes) {
            *scratch = None;
            *scratch = Some(Allocation::new(&self.memory, bytes)?);
        }
        scratch.as_ref().map(|found| found.pointer).ok_or_else(|| EngineError::internal("scratch memory was not made"))
    }
}
