//! Output layers whose rows have unit length (Baichuan2's NormHead), made once, since they are frozen.

use std::sync::Arc;

use half::{bf16, f16};
use rayon::prelude::*;

use crate::error::{EngineError, ErrorCode, Result};
use crate::quant::dequantize_rows;
use crate::tensor::{HostTensor, StoredType, TensorBytes};

/// The matrix with each row divided by its 2-norm, by 1e-12 at least as torch's `normalize`; in the type that it has, to whose precision the
/// model's own code rounds it, too.
///
/// Errors: `MODEL_UNSUPPORTED` where rows are of a quantized type.
pub(crate) fn normalized_rows(name: &str, matrix: &HostTensor) -> Result<HostTensor> {
    let write: fn(f32, &mut [u8]) = match matrix.stored {
        StoredType::F32 => |value, to| to.copy_from_slice(&value.to_le_bytes()),
        StoredType::F16 => |value, to| to.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
        StoredType::BF16 => |value, to| to.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
        other => {
            let found = other.name();
            let message = format!("`{name}` is stored as {found}; rows are normalised in f32, f16 or bf16 only");
            return Err(EngineError::new(ErrorCode::ModelUnsupported, message));
        }
    };
    let ([_, columns], number_bytes) = (matrix.matrix()?, matrix.stored.block_bytes());
    let mut bytes = vec![0u8; matrix.bytes.as_slice().len()];
    let rows = bytes.par_chunks_mut(columns * number_bytes).enumerate();
    rows.for_each_init(
        || vec![0f32; columns],
        |values, (row, bytes)| {
            dequantize_rows(matrix, row, values);
            let norm = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt().max(1e-12);
            for (value, to) in values.iter().zip(bytes.chunks_exact_mut(number_bytes)) {
                write((f64::from(*value) / norm) as f32, to);
            }
        },
    );
    Ok(HostTensor::new(matrix.stored, matrix.shape.clone(), TensorBytes::Owned(Arc::from(bytes))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::dequantize;

    fn matrix(stored: StoredType, bytes: Vec<u8>) -> HostTensor {
        HostTensor::new(stored, vec![2, 2], TensorBytes::Owned(Arc::from(bytes)))
    }

    #[test]
    fn rows_get_unit_length_and_zeros_stay() {
        let values = [3f32, -4.0, 0.0, 0.0];
        let plain = matrix(StoredType::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect());
        assert_eq!(dequantize(&normalized_rows("w", &plain).unwrap()), [0.6, -0.8, 0.0, 0.0]);
        let short = values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect();
        let found = dequantize(&normalized_rows("w", &matrix(StoredType::BF16, short)).unwrap());
        assert_eq!(found, [bf16::from_f32(0.6).to_f32(), bf16::from_f32(-0.8).to_f32(), 0.0, 0.0]);
    }
}
