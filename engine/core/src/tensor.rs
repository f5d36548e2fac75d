//! A tensor as it lies in a file or in host memory: stored type, shape, bytes. No arithmetic.

use std::ops::Range;
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use memmap2::Mmap;

use crate::error::{EngineError, ErrorCode, Result};
use crate::quant::Scales;
use crate::quant::four_bit::{self, CodeBook};

/// How the elements of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredType {
    F32,
    F16,
    BF16,
    /// Signed 8-bit codes with a scale for each row; see [`crate::quant`].
    Int8,
    /// 4-bit codes with a scale for each block of 64 numbers of the flattened matrix; see [`crate::quant`].
    Nf4,
    /// As nf4, with other values; read, not made.
    Fp4,
    /// A block-quantized GGML type (never its F32, F16 or BF16).
    Ggml(GgmlDType),
}

impl StoredType {
    /// Lower-case name as llama.cpp writes it, such as `f32`, `bf16`, `q4_1`, `q6_k`; and `int8`, `nf4`, `fp4`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 | Self::Ggml(GgmlDType::F32) => "f32",
            Self::F16 | Self::Ggml(GgmlDType::F16) => "f16",
            Self::BF16 | Self::Ggml(GgmlDType::BF16) => "bf16",
            Self::Int8 => "int8",
            Self::Nf4 => "nf4",
            Self::Fp4 => "fp4",
            Self::Ggml(GgmlDType::Q4_0) => "q4_0",
            Self::Ggml(GgmlDType::Q4_1) => "q4_1",
            Self::Ggml(GgmlDType::Q5_0) => "q5_0",
            Self::Ggml(GgmlDType::Q5_1) => "q5_1",
            Self::Ggml(GgmlDType::Q8_0) => "q8_0",
            Self::Ggml(GgmlDType::Q8_1) => "q8_1",
            Self::Ggml(GgmlDType::Q2K) => "q2_k",
            Self::Ggml(GgmlDType::Q3K) => "q3_k",
            Self::Ggml(GgmlDType::Q4K) => "q4_k",
            Self::Ggml(GgmlDType::Q5K) => "q5_k",
            Self::Ggml(GgmlDType::Q6K) => "q6_k",
            Self::Ggml(GgmlDType::Q8K) => "q8_k",
        }
    }

    /// What 4-bit codes stand for; none of other types.
    pub fn code_book(self) -> Option<&'static CodeBook> {
        match self {
            Self::Nf4 => Some(&four_bit::NF4),
            Self::Fp4 => Some(&four_bit::FP4),
            _ => None,
        }
    }

    /// Whether the bytes are codes whose scales lie beside them.
    pub fn is_coded(self) -> bool {
        self == Self::Int8 || self.code_book().is_some()
    }

    /// Elements that lie together in whole bytes, a block of GGML types with its scales: 1 where elements stand alone.
    pub fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::Int8 => 1,
            Self::Nf4 | Self::Fp4 => 2,
            Self::Ggml(kind) => kind.block_size(),
        }
    }

    /// Bytes of [`Self::block_elements`] elements.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Int8 | Self::Nf4 | Self::Fp4 => 1,
            Self::Ggml(kind) => kind.type_size(),
        }
    }

    /// Alignment in bytes that the elements (or a block's scales) need in memory.
    pub fn alignment(self) -> usize {
        match self {
            Self::F32 | Self::Ggml(GgmlDType::F32 | GgmlDType::Q8K) => 4,
            Self::F16 | Self::BF16 | Self::Ggml(_) => 2,
            Self::Int8 | Self::Nf4 | Self::Fp4 => 1,
        }
    }

    /// Bytes of a row of `elements`, or `None` where it is not a whole number of blocks or the size overflows.
    pub fn row_bytes(self, elements: usize) -> Option<usize> {
        let block = self.block_elements();
        elements.is_multiple_of(block).then(|| (elements / block).checked_mul(self.block_bytes())).flatten()
    }

    /// Bytes of a matrix, or `None` where its rows are not whole blocks or the size overflows. Rows of 4-bit codes need not be whole: the matrix is
    /// packed as one row.
    pub fn matrix_bytes(self, rows: usize, columns: usize) -> Option<usize> {
        match self {
            Self::Nf4 | Self::Fp4 => Some(rows.checked_mul(columns)?.div_ceil(2)),
            other => other.row_bytes(columns)?.checked_mul(rows),
        }
    }
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
/// The bytes begin at an address that is a multiple of `stored.alignment()`.
#[derive(Clone)]
pub struct HostTensor {
    pub stored: StoredType,
    pub shape: Vec<usize>,
    pub bytes: TensorBytes,
    /// Of int8, nf4 and fp4; the other types have theirs among the bytes, or none.
    pub scales: Option<Scales>,
}

impl HostTensor {
    /// A tensor of a type without scales beside its bytes.
    pub fn new(stored: StoredType, shape: Vec<usize>, bytes: TensorBytes) -> Self {
        Self { stored, shape, bytes, scales: None }
    }

    /// Some of a matrix's rows, or of a vector's numbers; not copied where they lie in a mapped file.
    ///
    /// Errors: `MODEL_UNSUPPORTED` for types whose scales lie beside the bytes.
    pub fn rows(&self, rows: Range<usize>) -> Result<Self> {
        if self.scales.is_some() || self.stored.is_coded() {
            let message = format!("rows of {} cannot be taken apart; use 16-bit files", self.stored.name());
            return Err(EngineError::new(ErrorCode::ModelUnsupported, message));
        }
        let all = self.shape.first().copied().unwrap_or(0);
        if rows.start >= rows.end || rows.end > all {
            return Err(EngineError::internal(format!("rows {rows:?} of {all}")));
        }
        let row_bytes = self.bytes.as_slice().len() / all;
        let window = rows.start * row_bytes..rows.end * row_bytes;
        let bytes = match &self.bytes {
            TensorBytes::Mapped { file, start, .. } => {
                TensorBytes::Mapped { file: file.clone(), start: start + window.start, len: window.len() }
            }
            TensorBytes::Owned(bytes) => TensorBytes::Owned(Arc::from(&bytes[window])),
        };
        let shape = std::iter::once(rows.len()).chain(self.shape[1..].iter().copied()).collect();
        Ok(Self::new(self.stored, shape, bytes))
    }

    /// Bytes that it takes, its scales included, mapped or not.
    pub fn size_bytes(&self) -> usize {
        self.bytes.as_slice().len() + self.scales.as_ref().map_or(0, Scales::bytes)
    }

    /// `[rows, columns]` of a matrix whose bytes and scales are as many as its type needs, and aligned.
    ///
    /// Errors: `INTERNAL`; readers and conversion make no other matrices.
    pub(crate) fn matrix(&self) -> Result<[usize; 2]> {
        let [rows, columns] = self.shape[..] else {
            return Err(EngineError::internal(format!("a weight has the shape {:?}; expected a matrix", self.shape)));
        };
        let (stored, bytes) = (self.stored, self.bytes.as_slice());
        let scales_fit = match (stored, &self.scales) {
            (StoredType::Int8, Some(scales @ Scales::Rows(_))) => scales.count() == rows,
            (StoredType::Nf4 | StoredType::Fp4, Some(scales @ (Scales::Blocks(_) | Scales::Nested(_)))) => {
                scales.count() == (rows * columns).div_ceil(four_bit::BLOCK)
            }
            (stored, _) if stored.is_coded() => false,
            (_, scales) => scales.is_none(),
        };
        if stored.matrix_bytes(rows, columns) == Some(bytes.len())
            && (bytes.as_ptr() as usize).is_multiple_of(stored.alignment())
            && scales_fit
        {
            return Ok([rows, columns]);
        }
        let (name, found, scales) = (stored.name(), bytes.len(), self.scales.as_ref().map_or(0, Scales::count));
        let message =
            format!("a {name} weight {rows}×{columns} has {found} bytes and {scales} scales, or lies unaligned");
        Err(EngineError::internal(message))
    }
}
