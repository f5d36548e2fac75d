//! Sizes and type of a frozen matrix, without its numbers: what its bytes follow from, on the host and on a device.

use super::nested::NESTED_BLOCK;
use super::{Scales, WeightStorage, four_bit};
use crate::error::{EngineError, Result};
use crate::tensor::{HostTensor, StoredType, TensorBytes};

/// A frozen matrix as it is held, or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixForm {
    pub rows: usize,
    pub columns: usize,
    pub stored: StoredType,
    /// Of 4-bit codes: whether the scales are codes themselves.
    pub double_quant: bool,
    /// Whether the bytes are a window of a mapped file.
    pub mapped: bool,
}

impl MatrixForm {
    /// A tensor's. `name` is for the message.
    ///
    /// Errors: `INTERNAL` where it is no matrix.
    pub fn of(name: &str, tensor: &HostTensor) -> Result<Self> {
        let [rows, columns] = tensor.shape[..] else {
            return Err(EngineError::internal(format!("`{name}` has the shape {:?}; expected a matrix", tensor.shape)));
        };
        let double_quant = matches!(tensor.scales, Some(Scales::Nested(_)));
        let mapped = matches!(tensor.bytes, TensorBytes::Mapped { .. });
        Ok(Self { rows, columns, stored: tensor.stored, double_quant, mapped })
    }

    /// What [`convert`](super::convert) makes of a matrix.
    pub fn converted(self, storage: WeightStorage) -> Self {
        match storage.stored_type().filter(|stored| *stored != self.stored) {
            None => self,
            Some(stored) => {
                let double_quant = storage == WeightStorage::Nf4 { double_quant: true };
                Self { stored, double_quant, mapped: false, ..self }
            }
        }
    }

    /// Numbers of the matrix.
    pub fn len(&self) -> usize {
        self.rows * self.columns
    }

    /// Whether it has no number.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the numbers or their codes, without scales that stand beside them.
    pub fn code_bytes(&self) -> usize {
        match self.stored {
            StoredType::Nf4 | StoredType::Fp4 => self.len().div_ceil(2),
            other => self.len() / other.block_elements() * other.block_bytes(),
        }
    }

    /// Scales beside the codes, `(plain f32, codes of double quantization)`.
    pub fn scales(&self) -> (usize, usize) {
        let blocks = self.len().div_ceil(four_bit::BLOCK);
        match self.stored {
            StoredType::Int8 => (self.rows, 0),
            StoredType::Nf4 | StoredType::Fp4 if self.double_quant => (blocks.div_ceil(NESTED_BLOCK), blocks),
            StoredType::Nf4 | StoredType::Fp4 => (blocks, 0),
            _ => (0, 0),
        }
    }

    /// Bytes on the host, as `HostTensor::size_bytes` gives them.
    pub fn host_bytes(&self) -> u64 {
        let (plain, codes) = self.scales();
        // The code book and the offset of double quantization.
        let tables = if self.double_quant { 257 * size_of::<f32>() } else { 0 };
        (self.code_bytes() + plain * size_of::<f32>() + codes + tables) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::convert;
    use super::*;

    #[test]
    fn bytes_are_those_of_the_converted_matrix() {
        for (rows, columns) in [(1, 1), (3, 5), (64, 64), (7, 131), (300, 96)] {
            let bytes: Vec<u8> = (0..rows * columns).flat_map(|index| (index as f32).sin().to_le_bytes()).collect();
            let matrix = HostTensor::new(StoredType::F32, vec![rows, columns], TensorBytes::Owned(Arc::from(bytes)));
            let form = MatrixForm { rows, columns, stored: StoredType::F32, double_quant: false, mapped: true };
            for storage in WeightStorage::ALL {
                let (expected, found) = (convert("w", matrix.clone(), storage).unwrap(), form.converted(storage));
                assert_eq!(found.stored, expected.stored);
                assert_eq!(found.host_bytes(), expected.size_bytes() as u64, "{rows}×{columns} as {}", storage.name());
                assert_eq!(found.mapped, storage == WeightStorage::Stored);
            }
        }
    }
}
