//! Frozen matrices from any stored type to the one that a model is loaded in.

use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use super::four_bit::BLOCK;
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
        WeightStorage::Bf16 => (pieces.floats(bf16::INFINITY, bf16::to_bits)?, None),
        WeightStorage::F16 => (pieces.floats(f16::INFINITY, f16::to_bits)?, None),
        WeightStorage::Int8 => {
            let (codes, scales) = pieces.int8()?;
            (codes, Some(Scales::Rows(scales.into())))
        }
        WeightStorage::Nf4 { double_quant } => {
            let (packed, absmax) = pieces.nf4()?;
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
    Ok(HostTensor { stored, shape: vec![rows, columns], bytes: TensorBytes::Owned(bytes), scales })
}

/// Rows of a piece, such that all pieces but the last are whole nf4 blocks and bytes.
fn rows_of_a_piece(columns: usize) -> usize {
    // The fewest rows that are a multiple of 64 numbers: 64 over its common divisor with the width, a power of two.
    let unit = BLOCK >> columns.trailing_zeros().min(BLOCK.ilog2());
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

    /// The numbers of piece `index`, in memory that a thread uses again and again.
    fn read<'v>(&self, index: usize, values: &'v mut Vec<f32>) -> &'v mut [f32] {
        let first = index * self.rows;
        values.resize(self.rows.min(self.matrix.shape[0] - first) * self.matrix.shape[1], 0.0);
        dequantize_rows(self.matrix, first, values);
        values
    }

    /// Notes whether all results of a piece are finite.
    fn note(&self, finite: bool) {
        if !finite {
            self.finite.store(false, Ordering::Relaxed);
        }
    }

    /// `infinity`: the type's.
    fn floats<F: Copy + Default>(&self, infinity: F, to_bits: impl Fn(F) -> u16 + Sync) -> Result<Arc<[u8]>>
    where
        [F]: HalfFloatSliceExt,
    {
        // f16 and bf16 alike: an exponent of ones means infinity or NaN. Its place follows from infinity's bits.
        let exponent = to_bits(infinity);
        let pieces = self.matrix.shape[0].div_ceil(self.rows);
        let sizes = [2 * self.total(), 2 * self.numbers(), 1];
        in_pieces(sizes, &mut vec![(); pieces], |(values, rounded): &mut (Vec<f32>, Vec<F>), index, bytes, _| {
            let values = self.read(index, values);
            rounded.resize(values.len(), F::default());
            rounded.convert_from_f32_slice(values);
            let mut finite = true;
            for (bytes, value) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(rounded) {
                let bits = to_bits(*value);
                finite &= bits & exponent != exponent;
                *bytes = bits.to_le_bytes();
            }
            self.note(finite);
        })
    }

    fn int8(&self) -> Result<(Arc<[u8]>, Vec<f32>)> {
        let columns = self.matrix.shape[1];
        let mut scales = vec![0.0; self.matrix.shape[0]];
        let sizes = [self.total(), self.numbers(), self.rows];
        let codes = in_pieces(sizes, &mut scales, |values, index, codes, scales| {
            let rows = self.read(index, values).chunks_exact_mut(columns).zip(codes.chunks_exact_mut(columns));
            rows.zip(&mut *scales).for_each(|((values, codes), scale)| *scale = int8::quantize_row(values, codes));
            self.note(scales.iter().all(|scale| scale.is_finite()));
        })?;
        Ok((codes, scales))
    }

    fn nf4(&self) -> Result<(Arc<[u8]>, Vec<f32>)> {
        let mut absmax = vec![0.0; self.total().div_ceil(BLOCK)];
        let sizes = [self.total().div_ceil(2), self.numbers() / 2, self.numbers() / BLOCK];
        let packed = in_pieces(sizes, &mut absmax, |values, index, packed, absmax| {
            nf4::quantize(self.read(index, values), packed, absmax);
            self.note(absmax.iter().all(|absmax| absmax.is_finite()));
        })?;
        Ok((packed, absmax))
    }
}

/// `len` bytes made on all threads in pieces of `piece`, each beside `share` of `others`. A thread gives `work` the same scratch again and
/// again; the bytes are first touched by who fills them and stay where they are, as both would take longer than the work on one thread.
fn in_pieces<S: Send, V: Default>(
    [len, piece, share]: [usize; 3],
    others: &mut [S],
    work: impl Fn(&mut V, usize, &mut [u8], &mut [S]) + Sync,
) -> Result<Arc<[u8]>> {
    assert_eq!(len.div_ceil(piece), others.len().div_ceil(share), "as many pieces as shares");
    let mut bytes = Arc::<[u8]>::new_uninit_slice(len);
    let unfilled = Arc::get_mut(&mut bytes).ok_or_else(|| EngineError::internal("new memory is shared"))?;
    let pieces = unfilled.par_chunks_mut(piece).zip(others.par_chunks_mut(share));
    pieces.enumerate().for_each_init(V::default, |scratch, (index, (bytes, others))| {
        bytes.fill(MaybeUninit::new(0));
        // SAFETY: the same bytes, all of which were just written.
        let bytes = unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast::<u8>(), bytes.len()) };
        work(scratch, index, bytes, others);
    });
    // SAFETY: every piece was written.
    Ok(unsafe { bytes.assume_init() })
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
            let mut absmax = vec![0.0; values.len().div_ceil(BLOCK)];
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
        let values = random(200_010);
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
