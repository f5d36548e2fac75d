//! Frozen matrices from any stored type to the one that a model is loaded in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use half::{bf16, f16};
use rayon::prelude::*;

use super::{NestedScales, Scales, WeightStorage, dequantize_rows, int8, nf4};
use crate::error::{EngineError, ErrorCode, Result};
use crate::tensor::{HostTensor, TensorBytes};

/// Numbers that one piece of work holds in f32: enough that taking a piece costs nothing beside it, few enough for a core's own cache.
const PIECE_NUMBERS: usize = 1 << 16;

/// A matrix in another type, made on all threads, piece by piece: beside the result only a few rows exist in f32. A tensor that is to stay as
/// it is, or has the type already, is returned as it is, not copied.
///
/// Errors: `MODEL_UNSUPPORTED` where a number is not finite in the type. `name` is for the message.
pub fn convert(name: &str, matrix: HostTensor, storage: WeightStorage) -> Result<HostTensor> {
    let Some(stored) = storage.stored_type().filter(|stored| *stored != matrix.stored) else { return Ok(matrix) };
    let [rows, columns] = matrix.shape[..] else {
        return Err(EngineError::internal(format!("`{name}` has the shape {:?}; expected a matrix", matrix.shape)));
    };
    let mut pieces = Pieces { matrix: &matrix, rows: rows_of_a_piece(columns), finite: AtomicBool::new(true) };
    let (bytes, scales) = match storage {
        WeightStorage::Stored => return Ok(matrix),
        WeightStorage::Bf16 => (pieces.floats(|value| bf16::from_f32(value).to_bits()), None),
        WeightStorage::F16 => (pieces.floats(|value| f16::from_f32(value).to_bits()), None),
        WeightStorage::Int8 => {
            let (codes, scales) = pieces.int8();
            (codes, Some(Scales::Rows(scales.into())))
        }
        WeightStorage::Nf4 { double_quant } => {
            let (packed, absmax) = pieces.nf4();
            let scales = match double_quant {
                true => Scales::Nested(Arc::new(NestedScales::new(&absmax))),
                false => Scales::Blocks(absmax.into()),
            };
            (packed, Some(scales))
        }
    };
    if !*pieces.finite.get_mut() {
        let message = format!(
            "`{name}` holds a number that is not finite in {}: NaN, an infinity, or one beyond the type's range (f16 and int8 end at 65504); load the model as it is stored, or in another type",
            stored.name()
        );
        return Err(EngineError::new(ErrorCode::ModelUnsupported, message));
    }
    Ok(HostTensor { stored, shape: vec![rows, columns], bytes: TensorBytes::Owned(bytes.into()), scales })
}

/// Rows of a piece, such that all pieces but the last are whole nf4 blocks and bytes.
fn rows_of_a_piece(columns: usize) -> usize {
    // The fewest rows that are a multiple of 64 numbers: 64 over its common divisor with the width, a power of two.
    let unit = nf4::BLOCK >> columns.trailing_zeros().min(nf4::BLOCK.ilog2());
    unit * (PIECE_NUMBERS / (unit * columns.max(1))).max(1)
}

struct Pieces<'a> {
    matrix: &'a HostTensor,
    /// Of each piece but the last, which may have fewer.
    rows: usize,
    finite: AtomicBool,
}

impl Pieces<'_> {
    fn numbers(&self) -> usize {
        self.rows * self.matrix.shape[1]
    }

    fn total(&self) -> usize {
        self.matrix.shape[0] * self.matrix.shape[1]
    }

    /// Calls `work` with the numbers of piece `index`; `work` says whether all of its results are finite.
    fn with(&self, index: usize, work: impl FnOnce(&mut [f32]) -> bool) {
        let first = index * self.rows;
        let rows = self.rows.min(self.matrix.shape[0] - first);
        let mut values = vec![0.0; rows * self.matrix.shape[1]];
        dequantize_rows(self.matrix, first, &mut values);
        if !work(&mut values) {
            self.finite.store(false, Ordering::Relaxed);
        }
    }

    fn floats(&self, to_bits: impl Fn(f32) -> u16 + Sync) -> Vec<u8> {
        // f16 and bf16 alike: an exponent of ones means infinity or NaN. Its place follows from infinity's bits.
        let exponent = to_bits(f32::INFINITY);
        let mut bytes = vec![0; 2 * self.total()];
        bytes.par_chunks_mut(2 * self.numbers()).enumerate().for_each(|(index, bytes)| {
            self.with(index, |values| {
                let mut finite = true;
                for (bytes, value) in bytes.chunks_exact_mut(2).zip(values) {
                    let bits = to_bits(*value);
                    finite &= bits & exponent != exponent;
                    bytes.copy_from_slice(&bits.to_le_bytes());
                }
                finite
            });
        });
        bytes
    }

    fn int8(&self) -> (Vec<u8>, Vec<f32>) {
        let columns = self.matrix.shape[1];
        let (mut codes, mut scales) = (vec![0; self.total()], vec![0.0; self.matrix.shape[0]]);
        let pieces = codes.par_chunks_mut(self.numbers()).zip(scales.par_chunks_mut(self.rows));
        pieces.enumerate().for_each(|(index, (codes, scales))| {
            self.with(index, |values| {
                let rows = values.chunks_exact_mut(columns).zip(codes.chunks_exact_mut(columns));
                rows.zip(&mut *scales).for_each(|((values, codes), scale)| *scale = int8::quantize_row(values, codes));
                scales.iter().all(|scale| scale.is_finite())
            });
        });
        (codes, scales)
    }

    fn nf4(&self) -> (Vec<u8>, Vec<f32>) {
        let (mut packed, mut absmax) =
            (vec![0; self.total().div_ceil(2)], vec![0.0; self.total().div_ceil(nf4::BLOCK)]);
        let pieces = packed.par_chunks_mut(self.numbers() / 2).zip(absmax.par_chunks_mut(self.numbers() / nf4::BLOCK));
        pieces.enumerate().for_each(|(index, (packed, absmax))| {
            self.with(index, |values| {
                nf4::quantize(values, packed, absmax);
                absmax.iter().all(|absmax| absmax.is_finite())
            });
        });
        (packed, absmax)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::dequantize;
    use crate::random::MersenneTwister;
    use crate::tensor::StoredType;

    fn f32_matrix(values: &[f32], columns: usize) -> HostTensor {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let shape = vec![values.len() / columns, columns];
        HostTensor::new(StoredType::F32, shape, TensorBytes::Owned(Arc::from(bytes)))
    }

    fn random(count: usize) -> Vec<f32> {
        let mut random = MersenneTwister::new(7);
        (0..count).map(|_| random.uniform_f32(1.0)).collect()
    }

    /// Several pieces, and widths that are whole blocks, parts of them, and odd: the same as in one go.
    #[test]
    fn pieces_equal_the_whole() {
        for columns in [64, 48, 1337, 7, 131] {
            let rows = 200_000usize.div_ceil(columns);
            let values = random(rows * columns);
            let found = convert("w", f32_matrix(&values, columns), WeightStorage::Nf4 { double_quant: false }).unwrap();
            let mut packed = vec![0; values.len().div_ceil(2)];
            let mut absmax = vec![0.0; values.len().div_ceil(nf4::BLOCK)];
            nf4::quantize(&values, &mut packed, &mut absmax);
            assert_eq!(found.bytes.as_slice(), packed, "{columns}");
            assert_eq!(found.scales, Some(Scales::Blocks(absmax.into())), "{columns}");
            // Every row alone, which may begin anywhere in a block or a byte.
            let whole = dequantize(&found);
            let mut row = vec![0.0; columns];
            for (index, expected) in whole.chunks_exact(columns).enumerate() {
                dequantize_rows(&found, index, &mut row);
                assert_eq!(row, expected, "{columns} {index}");
            }

            let found = convert("w", f32_matrix(&values, columns), WeightStorage::Int8).unwrap();
            let Some(Scales::Rows(scales)) = &found.scales else { panic!("int8 has a scale for each row") };
            let back = dequantize(&found);
            for ((row, back), scale) in values.chunks_exact(columns).zip(back.chunks_exact(columns)).zip(&**scales) {
                let step = scale / 127.0;
                // Half a step, and what rounding to f16 first adds: 2^-11 of a number, at most 127 / 2048 of a step.
                assert!(row.iter().zip(back).all(|(value, back)| (value - back).abs() <= 0.563 * step));
            }
        }
    }

    #[test]
    fn sixteen_bit_types_round_to_nearest() {
        let values = random(1000);
        let bf16s = dequantize(&convert("w", f32_matrix(&values, 10), WeightStorage::Bf16).unwrap());
        let f16s = dequantize(&convert("w", f32_matrix(&values, 10), WeightStorage::F16).unwrap());
        for ((value, bf16), f16) in values.iter().zip(bf16s).zip(f16s) {
            assert_eq!((bf16, f16), (half::bf16::from_f32(*value).to_f32(), half::f16::from_f32(*value).to_f32()));
        }
    }

    #[test]
    fn a_tensor_that_has_the_type_is_not_copied() {
        for storage in [WeightStorage::Stored, WeightStorage::Bf16] {
            let matrix = convert("w", f32_matrix(&random(640), 64), WeightStorage::Bf16).unwrap();
            let before = matrix.bytes.as_slice().as_ptr();
            assert_eq!(convert("w", matrix, storage).unwrap().bytes.as_slice().as_ptr(), before);
        }
    }

    #[test]
    fn a_row_of_zeros_stays_zero_in_every_type() {
        for storage in WeightStorage::ALL {
            let matrix = convert("w", f32_matrix(&[0.0; 192], 64), storage).unwrap();
            assert!(dequantize(&matrix).iter().all(|value| *value == 0.0), "{}", storage.name());
        }
    }

    #[test]
    fn what_a_type_cannot_hold_is_refused_by_name() {
        let with = |value: f32| {
            let mut values = random(640);
            values[333] = value;
            f32_matrix(&values, 64)
        };
        for storage in WeightStorage::ALL.into_iter().skip(1) {
            for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let error = convert("mlp.up_proj.weight", with(value), storage).err().unwrap();
                assert_eq!(error.code, ErrorCode::ModelUnsupported);
                assert!(error.message.contains("`mlp.up_proj.weight`"), "{error}");
            }
        }
        for (storage, fits) in [(WeightStorage::F16, false), (WeightStorage::Int8, false), (WeightStorage::Bf16, true)]
        {
            assert_eq!(convert("w", with(1e5), storage).is_ok(), fits, "{}", storage.name());
        }
    }
}
