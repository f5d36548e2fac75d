//! Frozen matrices on the GPU.

use std::sync::Arc;

use luthier_kernels::NumberType;

use super::memory::{Allocation, Memory};
use crate::error::{EngineError, Result};
use crate::ops::cpu::decode_model::dequantize_bytes;
use crate::tensor::{HostTensor, StoredType};

/// Numbers that are dequantized on the host at once while a weight is taken.
const PIECE_NUMBERS: usize = 1 << 22;

/// A frozen matrix `[rows, columns]`.
pub struct CudaWeight {
    pub(super) allocation: Allocation,
    pub(super) kind: NumberType,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl CudaWeight {
    /// Takes f32, f16 and bf16 as they are; block-quantized types are dequantized to `compute`.
    pub(super) fn new(memory: &Arc<Memory>, tensor: &HostTensor, compute: NumberType) -> Result<Self> {
        let [rows, columns] = tensor.shape[..] else {
            return Err(EngineError::internal(format!("a weight has the shape {:?}; expected a matrix", tensor.shape)));
        };
        let kind = match tensor.stored {
            StoredType::F32 => NumberType::F32,
            StoredType::F16 => NumberType::F16,
            StoredType::BF16 => NumberType::BF16,
            StoredType::Ggml(_) => compute,
        };
        let allocation = Allocation::new(memory, rows * columns * kind.bytes())?;
        let weight = Self { allocation, kind, rows, columns };
        let bytes = tensor.bytes.as_slice();
        if let StoredType::Ggml(_) = tensor.stored {
            weight.fill_dequantized(memory, tensor)?;
        } else if bytes.len() == weight.allocation.bytes() {
            // SAFETY: the sizes are equal.
            unsafe { memory.stream.upload(bytes, weight.allocation.pointer)? };
        } else {
            let (expected, found) = (weight.allocation.bytes(), bytes.len());
            return Err(EngineError::internal(format!(
                "a weight {rows}×{columns} has {found} bytes; expected {expected}"
            )));
        }
        // The host's pages may go away now.
        memory.stream.synchronize()?;
        Ok(weight)
    }

    fn fill_dequantized(&self, memory: &Arc<Memory>, tensor: &HostTensor) -> Result<()> {
        let Self { rows, columns, kind, .. } = *self;
        let row_bytes = tensor.stored.row_bytes(columns).filter(|bytes| bytes * rows == tensor.bytes.as_slice().len());
        let row_bytes = row_bytes.ok_or_else(|| EngineError::internal("a quantized weight has another size"))?;
        let at_once = (PIECE_NUMBERS / columns).clamp(1, rows);
        let mut numbers = vec![0f32; at_once * columns];
        for first in (0..rows).step_by(at_once) {
            let count = (rows - first).min(at_once);
            let numbers = &mut numbers[..count * columns];
            dequantize_bytes(
                tensor.stored,
                &tensor.bytes.as_slice()[first * row_bytes..(first + count) * row_bytes],
                numbers,
            );
            let to = self.allocation.pointer + (first * columns * kind.bytes()) as u64;
            // SAFETY: rows of this weight; pageable memory is staged before the copy returns.
            unsafe {
                match kind {
                    NumberType::F32 => memory.stream.upload(numbers, to)?,
                    NumberType::F16 => memory.stream.upload(&rounded(numbers, half::f16::from_f32), to)?,
                    NumberType::BF16 => memory.stream.upload(&rounded(numbers, half::bf16::from_f32), to)?,
                }
            }
        }
        Ok(())
    }
}

fn rounded<T>(numbers: &[f32], round: impl Fn(f32) -> T) -> Vec<T> {
    numbers.iter().map(|number| round(*number)).collect()
}
