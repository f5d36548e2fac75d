//! Frozen matrices in their stored type.

use std::sync::Arc;

use super::memory::{Counted, MemoryCounter};
use super::real::Real;
use crate::error::Result;
use crate::quant::dequantize_rows;
use crate::tensor::{HostTensor, StoredType, TensorBytes};

/// A frozen matrix `[rows, columns]`; the bytes stay where they are.
pub struct CpuWeight {
    tensor: HostTensor,
    /// Its bytes, where they are in memory of their own; a mapped file is not the device's.
    _counted: Option<Counted>,
}

impl CpuWeight {
    pub(super) fn new(tensor: HostTensor, counter: &Arc<MemoryCounter>) -> Result<Self> {
        tensor.matrix()?;
        let owned = matches!(tensor.bytes, TensorBytes::Owned(_));
        let counted = owned.then(|| Counted::new(tensor.size_bytes() as u64, counter));
        Ok(Self { tensor, _counted: counted })
    }

    pub fn rows(&self) -> usize {
        self.tensor.shape[0]
    }

    pub fn columns(&self) -> usize {
        self.tensor.shape[1]
    }

    /// The matrix itself. Cloning it copies no element.
    pub fn tensor(&self) -> &HostTensor {
        &self.tensor
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
        if let Some(out) = E::as_f32_mut(out) {
            dequantize_rows(&self.tensor, first, out);
            return;
        }
        let mut row = vec![0f32; self.columns()];
        for (index, out) in out.chunks_exact_mut(self.columns()).enumerate() {
            dequantize_rows(&self.tensor, first + index, &mut row);
            for (out, value) in out.iter_mut().zip(&row) {
                *out = E::from_f32(*value);
            }
        }
    }
}
