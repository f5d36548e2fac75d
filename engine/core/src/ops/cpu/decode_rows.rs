//! Ranges of a stored matrix's rows times one vector, with the fastest kernel that the type and the processor have.

use std::ops::Range;
use std::sync::OnceLock;

use candle_core::quantized::GgmlDType;
use half::{bf16, f16};

use super::decode_dot::{BlockFormat, ROWS, dot_blocks, dot_floats};
#[cfg(target_arch = "x86_64")]
use super::decode_dot_x86 as x86;
use super::decode_quantize::{BLOCK, QuantizedVector};
use crate::quant::{dequantize_rows, elements};
use crate::tensor::{HostTensor, StoredType};

/// Instruction sets with kernels of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InstructionSet {
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl InstructionSet {
    /// The best one this processor has.
    pub fn detect() -> Self {
        static DETECTED: OnceLock<InstructionSet> = OnceLock::new();
        *DETECTED.get_or_init(|| Self::available()[0])
    }

    /// Everything this processor has, best first.
    pub fn available() -> Vec<Self> {
        let mut sets = Vec::new();
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
            if is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vl") {
                sets.push(Self::Avx512Vnni);
            }
            sets.push(Self::Avx2);
        }
        sets.push(Self::Portable);
        sets
    }
}

/// How a stored type is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    Blocks(BlockFormat),
    F32,
    F16,
    BF16,
    /// Rows are dequantized one at a time and multiplied in f32.
    Dequantized,
}

impl Kernel {
    fn of(stored: StoredType) -> Self {
        match stored {
            StoredType::F32 | StoredType::Ggml(GgmlDType::F32) => Self::F32,
            StoredType::F16 | StoredType::Ggml(GgmlDType::F16) => Self::F16,
            StoredType::BF16 | StoredType::Ggml(GgmlDType::BF16) => Self::BF16,
            StoredType::Ggml(GgmlDType::Q4_0) => Self::Blocks(BlockFormat::Q4_0),
            StoredType::Ggml(GgmlDType::Q4_1) => Self::Blocks(BlockFormat::Q4_1),
            StoredType::Ggml(GgmlDType::Q8_0) => Self::Blocks(BlockFormat::Q8_0),
            StoredType::Ggml(_) | StoredType::Int8 | StoredType::Nf4 | StoredType::Fp4 => Self::Dequantized,
        }
    }
}

/// A vector in the forms that kernels want: f32 always, 8-bit blocks where a matrix needs them.
#[derive(Clone, Debug, Default)]
pub struct DecodeVector {
    values: Vec<f32>,
    quantized: QuantizedVector,
}

impl DecodeVector {
    /// Overwrites the vector. With `quantize`, its 8-bit form is made as well; the length must then be a multiple of 32.
    pub fn assign(&mut self, x: &[f32], quantize: bool) {
        self.values.clear();
        self.values.extend_from_slice(x);
        if quantize {
            self.quantized.quantize(x);
        } else {
            self.quantized.scales.clear();
        }
    }
}

/// Whether products with this stored type need the vector's 8-bit form.
pub fn needs_quantized_vector(stored: StoredType) -> bool {
    matches!(Kernel::of(stored), Kernel::Blocks(_))
}

/// Rows `rows` of `matrix [out_features, in_features]` times the vector, into `out` (one value a row).
///
/// Quantized types with blocks of 32 multiply the 8-bit form of the vector (relative error about 1/254 of the largest activation of a block);
/// all others multiply in f32.
pub fn multiply_rows(matrix: &HostTensor, rows: Range<usize>, x: &DecodeVector, out: &mut [f32]) {
    multiply_rows_with(InstructionSet::detect(), matrix, rows, x, out);
}

pub(super) fn multiply_rows_with(
    set: InstructionSet,
    matrix: &HostTensor,
    rows: Range<usize>,
    x: &DecodeVector,
    out: &mut [f32],
) {
    let in_features = matrix.shape[1];
    assert_eq!(x.values.len(), in_features, "the vector must be as long as the matrix is wide");
    assert_eq!(out.len(), rows.len(), "one output for each row");
    let kernel = Kernel::of(matrix.stored);
    if kernel == Kernel::Dequantized {
        return dequantized_rows(set, matrix, rows.start, &x.values, out);
    }
    let row_bytes = matrix.bytes.as_slice().len() / matrix.shape[0];
    let bytes = &matrix.bytes.as_slice()[rows.start * row_bytes..rows.end * row_bytes];
    match kernel {
        Kernel::Blocks(format) => {
            assert_eq!(x.quantized.scales.len() * BLOCK, in_features, "the vector's 8-bit form is missing");
            assert_eq!(row_bytes, in_features / BLOCK * format.bytes());
            block_rows(set, format, bytes, row_bytes, &x.quantized, out);
        }
        Kernel::F32 => f32_rows(set, elements(bytes), &x.values, out),
        Kernel::F16 => f16_rows(set, elements(bytes), &x.values, out),
        Kernel::BF16 => bf16_rows(set, elements(bytes), &x.values, out),
        Kernel::Dequantized => {}
    }
}

fn block_rows(
    set: InstructionSet,
    format: BlockFormat,
    bytes: &[u8],
    row_bytes: usize,
    x: &QuantizedVector,
    out: &mut [f32],
) {
    let portable = |row: usize| dot_blocks(format, &bytes[row * row_bytes..(row + 1) * row_bytes], x);
    // SAFETY: `set` is what the processor has, and `bytes` holds `out.len()` rows of one block for each of the vector's (asserted above).
    #[cfg(target_arch = "x86_64")]
    macro_rules! run {
        ($kernel:ident) => {
            in_groups(
                out,
                |row| unsafe { x86::$kernel::<ROWS>(bytes.as_ptr().add(row * row_bytes), row_bytes, x) },
                |row| unsafe { x86::$kernel::<1>(bytes.as_ptr().add(row * row_bytes), row_bytes, x)[0] },
            )
        };
    }
    match (set, format) {
        #[cfg(target_arch = "x86_64")]
        (InstructionSet::Avx512Vnni, BlockFormat::Q4_0) => run!(q4_0_vnni),
        #[cfg(target_arch = "x86_64")]
        (InstructionSet::Avx512Vnni, BlockFormat::Q4_1) => run!(q4_1_vnni),
        #[cfg(target_arch = "x86_64")]
        (InstructionSet::Avx512Vnni, BlockFormat::Q8_0) => run!(q8_0_vnni),
        #[cfg(target_arch = "x86_64")]
        (InstructionSet::Avx2, BlockFormat::Q4_0) => run!(q4_0_avx2),
        #[cfg(target_arch = "x86_64")]
        (InstructionSet::Avx2, BlockFormat::Q4_1) => run!(q4_1_avx2),
        #[cfg(target_arch = "x86_64")]
        (InstructionSet::Avx2, BlockFormat::Q8_0) => run!(q8_0_avx2),
        (InstructionSet::Portable, _) => out.iter_mut().enumerate().for_each(|(row, out)| *out = portable(row)),
    }
}

/// Fills `out` four rows at a time, the rest one by one.
fn in_groups(out: &mut [f32], group: impl Fn(usize) -> [f32; ROWS], single: impl Fn(usize) -> f32) {
    let whole = out.len() / ROWS * ROWS;
    let (groups, rest) = out.split_at_mut(whole);
    for (index, out) in groups.chunks_exact_mut(ROWS).enumerate() {
        out.copy_from_slice(&group(index * ROWS));
    }
    for (index, out) in rest.iter_mut().enumerate() {
        *out = single(whole + index);
    }
}

macro_rules! float_rows {
    ($name:ident, $element:ty, $kernel:ident) => {
        fn $name(set: InstructionSet, weights: &[$element], x: &[f32], out: &mut [f32]) {
            let length = x.len();
            assert_eq!(weights.len(), length * out.len());
            match set {
                // SAFETY: both sets include AVX2, FMA and F16C; the weights hold `out.len()` rows of `x.len()` elements.
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512Vnni | InstructionSet::Avx2 => in_groups(
                    out,
                    |row| unsafe { x86::$kernel::<ROWS>(weights.as_ptr().add(row * length), length, x) },
                    |row| unsafe { x86::$kernel::<1>(weights.as_ptr().add(row * length), length, x)[0] },
                ),
                InstructionSet::Portable => {
                    for (row, out) in weights.chunks_exact(length).zip(out) {
                        *out = dot_floats(row, x);
                    }
                }
            }
        }
    };
}

float_rows!(f32_rows, f32, f32_avx2);
float_rows!(f16_rows, f16, f16_avx2);
float_rows!(bf16_rows, bf16, bf16_avx2);

/// Rows of f32 numbers `[out.len(), x.len()]` times a vector; for the small matrices of adapters.
pub fn multiply_f32_rows(weights: &[f32], x: &[f32], out: &mut [f32]) {
    f32_rows(InstructionSet::detect(), weights, x, out);
}

/// Rows `first..`, dequantized one at a time.
fn dequantized_rows(set: InstructionSet, matrix: &HostTensor, first: usize, x: &[f32], out: &mut [f32]) {
    let mut row = vec![0f32; x.len()];
    for (index, out) in out.iter_mut().enumerate() {
        dequantize_rows(matrix, first + index, &mut row);
        f32_rows(set, &row, x, std::slice::from_mut(out));
    }
}

#[cfg(test)]
mod tests;
