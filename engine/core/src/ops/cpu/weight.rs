//! Frozen matrices in their stored type.

use super::decode_model::dequantize_bytes;
use super::real::Real;
use crate::error::{EngineError, Result};
use crate::tensor::{HostTensor, StoredType};

/// A frozen matrix `[rows, columns]`; the bytes stay where they are.
pub struct CpuWeight {
    tensor: HostTensor,
    row_bytes: usize,
}

impl CpuWeight {
    pub(super) fn new(tensor: HostTensor) -> Result<Self> {
        let [rows, columns] = tensor.shape[..] else {
            return Err(EngineError::internal(format!("a weight has the shape {:?}; expected a matrix", tensor.shape)));
        };
        let row_bytes = tensor.stored.row_bytes(columns).filter(|bytes| {
            bytes.checked_mul(rows) == Some(tensor.bytes.as_slice().len())
                && (tensor.bytes.as_slice().as_ptr() as usize).is_multiple_of(tensor.stored.alignment())
        });
        let row_bytes = row_bytes.ok_or_else(|| {
            let (stored, found) = (tensor.stored.name(), tensor.bytes.as_slice().len());
            EngineError::internal(format!("a {stored} weight {rows}×{columns} has {found} bytes or lies unaligned"))
        })?;
        Ok(Self { tensor, row_bytes })
    }

    pub fn rows(&self) -> usize {
        self.tensor.shape[0]
    }

    pub fn columns(&self) -> usize {
        self.tensor.shape[1]
    }

    /// The elements themselves where they are stored as `E`.
    pub(super) fn elements<E: Real>(&self) -> Option<&[E]> {
        let same =
            self.tensor.stored == StoredType::F32 && std::any::TypeId::of::<E>() == std::any::TypeId::of::<f32>();
        let bytes = self.tensor.bytes.as_slice();
        // SAFETY: `E` is f32; address and length were checked in `new`.
        same.then(|| unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<E>(), bytes.len() / size_of::<E>()) })
    }

    /// Rows `first..` into `out`, a whole number of rows.
    pub(super) fn dequantize_rows<E: Real>(&self, first: usize, out: &mut [E]) {
        let rows = out.len() / self.columns();
        let bytes = &self.tensor.bytes.as_slice()[first * self.row_bytes..(first + rows) * self.row_bytes];
        if let Some(out) = E::as_f32_mut(out) {
            dequantize_bytes(self.tensor.stored, bytes, out);
            return;
        }
        let mut row = vec![0f32; self.columns()];
        for (out, bytes) in out.chunks_exact_mut(self.columns()).zip(bytes.chunks_exact(self.row_bytes)) {
            dequantize_bytes(self.tensor.stored, bytes, &mut row);
            for (out, value) in out.iter_mut().zip(&row) {
                *out = E::from_f32(*value);
            }
        }
    }
}
