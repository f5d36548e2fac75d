//! A tensor as it lies in a file or in host memory: stored type, shape, bytes. No arithmetic.

use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use memmap2::Mmap;

/// How the elements of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredType {
    F32,
    F16,
    BF16,
    /// A block-quantized GGML type (never its F32, F16 or BF16).
    Ggml(GgmlDType),
}

/// Bytes that several tensors may share: a window of a mapped file, or memory of their own.
#[derive(Clone)]
pub enum TensorBytes {
    Mapped { file: Arc<Mmap>, start: usize, len: usize },
    Owned(Arc<[u8]>),
}

impl TensorBytes {
    /// The bytes themselves.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped { file, start, len } => &file[*start..*start + *len],
            Self::Owned(bytes) => bytes,
        }
    }
}

/// A tensor in its stored type. Row-major; a linear layer's weight is `[out_features, in_features]`.
#[derive(Clone)]
pub struct HostTensor {
    pub stored: StoredType,
    pub shape: Vec<usize>,
    pub bytes: TensorBytes,
}
