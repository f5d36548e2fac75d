//! Frozen matrices in their stored type.

use std::sync::Arc;

use super::memory::{Counted, MemoryCounter};
use super::real::Real;
use crate::error::{EngineError, Result};
use crate::quant::{Scales, dequantize_rows, nf4};
use crate::tensor::{HostTensor, StoredType, TensorBytes};

/// A frozen matrix `[rows, columns]`; the bytes stay where they are.
pub struct CpuWeight {
    tensor: HostTensor,
    /// Its bytes, where they are in memory of their own; a mapped file is not the device's.
    _counted: Option<Counted>,
}

/// Whether the scales are those that the type needs, as many as it needs.
fn scales_fit(tensor: &HostTensor, rows: usize, columns: usize) -> bool {
    match (tensor.stored, &tensor.scales) {
        (StoredType::Int8, Some(scales @ Scales::Rows(_))) => scales.count() == rows,
        (StoredType::Nf4, Some(scales @ (Scales::Blocks(_) | Scales::Nested(_)))) => {
            scales.count() == (rows * columns).div_ceil(nf4::BLOCK)
        }
        (StoredType::Int8 | StoredType::Nf4, _) => false,
        (_, scales) => scales.is_none(),
    }
}

impl CpuWeight {
    pub(super) fn new(tensor: HostTensor, counter: &Arc<MemoryCounter>) -> Result<Self> {
        let [rows, columns] = tensor.shape[..] else {
            return Err(EngineError::internal(format!("a weight has the shape {:?}; expected a matrix", tensor.shape)));
        };
        let bytes = tensor.bytes.as_slice();
        let fits = tensor.stored.matrix_bytes(rows, columns) == Some(bytes.len())
            && (bytes.as_ptr() as usize).is_multiple_of(tensor.stored.alignment())
            && scales_fit(&tensor, rows, columns);
        if fits {
            let owned = matches!(tensor.bytes, TensorBytes::Owned(_));
            let counted = owned.then(|| Counted::new(tensor.size_bytes() as u64, counter));
            return Ok(Self { tensor, _counted: counted });
        }
        let (stored, found) = (tensor.stored.name(), bytes.len());
        let scales = tensor.scales.as_ref().map_or(0, Scales::count);
        let message =
            format!("a {stored} weight {rows}×{columns} has {found} bytes and {scales} scales, or lies unaligned");
        Err(EngineError::internal(message))
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
