//! f32 to the bytes of a file.

use half::{bf16, f16};

use crate::error::{EngineError, ErrorCode, Result};
use crate::tensor::StoredType;

/// Numbers that share a scale in q8_0, and the bytes they take with it.
pub(super) const Q8_0_NUMBERS: usize = 32;
pub(super) const Q8_0_BYTES: usize = 34;

/// Little-endian f32, f16 or bf16, in place of what was in `out`. `name` is for the message.
///
/// Errors: `MODEL_UNSUPPORTED` for a number that is not finite in the type.
pub(super) fn floats(name: &str, stored: StoredType, numbers: &[f32], out: &mut Vec<u8>) -> Result<()> {
    out.clear();
    let mut finite = true;
    match stored {
        StoredType::F16 => out.extend(numbers.iter().flat_map(|number| {
            let rounded = f16::from_f32(*number);
            finite &= rounded.is_finite();
            rounded.to_le_bytes()
        })),
        StoredType::BF16 => out.extend(numbers.iter().flat_map(|number| {
            let rounded = bf16::from_f32(*number);
            finite &= rounded.is_finite();
            rounded.to_le_bytes()
        })),
        _ => out.extend(numbers.iter().flat_map(|number| {
            finite &= number.is_finite();
            number.to_le_bytes()
        })),
    }
    if finite { Ok(()) } else { Err(not_finite(name, stored.name())) }
}

/// q8_0 as llama.cpp rounds it: 32 signed bytes q and d = the largest magnitude / 127 as f16, for q · d. `numbers`: whole blocks.
///
/// Errors: `MODEL_UNSUPPORTED` for a number that is not finite, or a block whose d is not.
pub(super) fn q8_0(name: &str, numbers: &[f32], out: &mut Vec<u8>) -> Result<()> {
    out.clear();
    for block in numbers.chunks_exact(Q8_0_NUMBERS) {
        let largest = block.iter().fold(0f32, |largest, number| largest.max(number.abs()));
        let scale = largest / 127.0;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let stored = f16::from_f32(scale);
        if !(stored.is_finite() && block.iter().all(|number| number.is_finite())) {
            return Err(not_finite(name, "q8_0"));
        }
        out.extend(stored.to_le_bytes());
        out.extend(block.iter().map(|number| (number * inverse).round() as i8 as u8));
    }
    Ok(())
}

fn not_finite(name: &str, stored: &str) -> EngineError {
    let message = format!(
        "`{name}` with the adapter holds a number that is not finite in {stored}: NaN, an infinity, or one beyond the type's range; choose safetensors in bf16"
    );
    EngineError::new(ErrorCode::ModelUnsupported, message)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use candle_core::quantized::GgmlDType;

    use super::*;
    use crate::quant::dequantize;
    use crate::random::MersenneTwister;
    use crate::tensor::{HostTensor, TensorBytes};

    #[test]
    fn q8_0_is_read_back_within_half_a_step() {
        let mut random = MersenneTwister::new(5);
        let numbers: Vec<f32> =
            (0..4 * Q8_0_NUMBERS).map(|i| if i < 32 { 0.0 } else { random.uniform_f32(3.0) }).collect();
        let mut bytes = Vec::new();
        q8_0("w", &numbers, &mut bytes).unwrap();
        assert_eq!(bytes.len(), 4 * Q8_0_BYTES);
        let shape = vec![2, 2 * Q8_0_NUMBERS];
        let tensor = HostTensor::new(StoredType::Ggml(GgmlDType::Q8_0), shape, TensorBytes::Owned(Arc::from(bytes)));
        for (block, found) in numbers.chunks(Q8_0_NUMBERS).zip(dequantize(&tensor).chunks(Q8_0_NUMBERS)) {
            let largest = block.iter().fold(0f32, |largest, number| largest.max(number.abs()));
            for (number, found) in block.iter().zip(found) {
                // Half a step, and what f16 takes from the scale.
                assert!((number - found).abs() <= largest * (0.5 / 127.0 + 1e-3), "{number} {found}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let mut out = Vec::new();
        for (stored, number) in [(StoredType::F16, 70_000.0), (StoredType::BF16, f32::MAX), (StoredType::F32, f32::NAN)]
        {
            let error = floats("model.norm.weight", stored, &[1.0, number], &mut out).unwrap_err();
            assert_eq!(error.code, ErrorCode::ModelUnsupported);
            assert!(error.message.contains("`model.norm.weight`") && error.message.contains(stored.name()), "{error}");
        }
        assert!(q8_0("w", &[f32::NAN; 32], &mut out).is_err());
        floats("w", StoredType::F16, &[65_504.0, -0.5], &mut out).unwrap();
        assert_eq!(out, [0xff, 0x7b, 0x00, 0xb8]);
    }
}
