//! Output layers whose rows have unit length (Baichuan2's NormHead), made once, since they are frozen.

use std::sync::Arc;

use half::{bf16, f16};

use crate::error::{EngineError, ErrorCode, Result};
use crate::quant::dequantize_rows;
use crate::tensor::{HostTensor, StoredType, TensorBytes};

/// The matrix with each row divided by its 2-norm, by 1e-12 at least as torch's `normalize`; in the type that it has, to whose precision the
/// model's own code rounds it, too.
///
/// Errors: `MODEL_UNSUPPORTED` where rows are of a quantized type.
pub(super) fn normalized_rows(name: &str, matrix: &HostTensor) -> Result<HostTensor> {
    let [rows, columns] = matrix.matrix()?;
    let mut bytes = Vec::with_capacity(matrix.bytes.as_slice().len());
    let mut values = vec![0f32; columns];
    for row in 0..rows {
        dequantize_rows(matrix, row, &mut values);
        let norm = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt().max(1e-12);
        let unit = values.iter().map(|value| (f64::from(*value) / norm) as f32);
        match matrix.stored {
            StoredType::F32 => unit.for_each(|value| bytes.extend(value.to_le_bytes())),
            StoredType::F16 => unit.for_each(|value| bytes.extend(f16::from_f32(value).to_le_bytes())),
            StoredType::BF16 => unit.for_each(|value| bytes.extend(bf16::from_f32(value).to_le_bytes())),
            other => {
                let found = other.name();
                let message = format!("`{name}` is stored as {found}; rows are normalised in f32, f16 or bf16 only");
                return Err(EngineError::new(ErrorCode::ModelUnsupported, message));
            }
        }
    }
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
