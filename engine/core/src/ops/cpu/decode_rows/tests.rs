use std::sync::Arc;

use super::*;
use crate::quant::{dequantize, dequantize_rows};
use crate::tensor::TensorBytes;

const KINDS: [GgmlDType; 12] = [
    GgmlDType::Q4_0,
    GgmlDType::Q4_1,
    GgmlDType::Q5_0,
    GgmlDType::Q5_1,
    GgmlDType::Q8_0,
    GgmlDType::Q2K,
    GgmlDType::Q3K,
    GgmlDType::Q4K,
    GgmlDType::Q5K,
    GgmlDType::Q6K,
    GgmlDType::F16,
    GgmlDType::BF16,
];

fn numbers(count: usize, mut state: u32) -> Vec<f32> {
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn matrix(kind: GgmlDType, rows: usize, columns: usize) -> HostTensor {
    let mut blocks = kind.cpu_zeros(rows * columns);
    blocks.from_float(&numbers(rows * columns, 5));
    // SAFETY: the pointer and the size describe the blocks just made.
    let bytes = unsafe { std::slice::from_raw_parts(blocks.as_ptr(), blocks.storage_size_in_bytes()) };
    let stored = match kind {
        GgmlDType::F32 => StoredType::F32,
        GgmlDType::F16 => StoredType::F16,
        GgmlDType::BF16 => StoredType::BF16,
        kind => StoredType::Ggml(kind),
    };
    HostTensor::new(stored, vec![rows, columns], TensorBytes::Owned(Arc::from(bytes)))
}

fn products(set: InstructionSet, matrix: &HostTensor, rows: Range<usize>, x: &[f32]) -> Vec<f32> {
    let mut vector = DecodeVector::default();
    vector.assign(x, needs_quantized_vector(matrix.stored));
    let mut out = vec![f32::NAN; rows.len()];
    multiply_rows_with(set, matrix, rows, &vector, &mut out);
    out
}

#[test]
fn products_agree_with_dequantized_rows() {
    let columns = 512;
    let x = numbers(columns, 77);
    for kind in KINDS {
        let matrix = matrix(kind, 7, columns);
        let weights = dequantize(&matrix);
        let found = products(InstructionSet::detect(), &matrix, 0..7, &x);
        for (row, found) in weights.chunks_exact(columns).zip(&found) {
            let exact: f64 = row.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            // An activation is off by at most half a step of its block, a step being max|x| / 127 ≤ 1 / 127; f32 sums add a little.
            let rounding = if needs_quantized_vector(matrix.stored) { 0.5 / 127.0 } else { 1e-6 };
            let bound = rounding * row.iter().map(|w| f64::from(w.abs())).sum::<f64>();
            assert!((exact - f64::from(*found)).abs() <= bound, "{kind:?}: {exact} {found} bound {bound}");
        }
    }
}

#[test]
fn every_instruction_set_gives_the_bits_of_the_portable_code() {
    let mut compared = 0;
    for kind in KINDS.into_iter().chain([GgmlDType::F32]) {
        for rows in [1, 4, 7, 9] {
            let matrix = matrix(kind, rows, 768);
            let x = numbers(768, rows as u32);
            let expected = products(InstructionSet::Portable, &matrix, 0..rows, &x);
            for set in InstructionSet::available() {
                let found = products(set, &matrix, 0..rows, &x);
                let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&found), bits(&expected), "{kind:?} with {set:?}");
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 13 * 4 * InstructionSet::available().len());
}

#[test]
fn extreme_quants_do_not_saturate() {
    // Every weight -128 and every activation ±127: the largest products that 16-bit sums of the AVX2 kernel must hold.
    let mut bytes = Vec::new();
    for _ in 0..2 {
        bytes.extend_from_slice(&f16::ONE.to_le_bytes());
        bytes.extend_from_slice(&[0x80; 32]);
    }
    let stored = StoredType::Ggml(GgmlDType::Q8_0);
    let matrix = HostTensor::new(stored, vec![1, 64], TensorBytes::Owned(Arc::from(bytes)));
    for sign in [127.0, -127.0] {
        for set in InstructionSet::available() {
            assert_eq!(products(set, &matrix, 0..1, &[sign; 64]), [-128.0 * sign * 64.0], "{set:?}");
        }
    }
}

#[test]
fn widths_that_are_no_multiple_of_the_lanes_are_summed_to_the_end() {
    for columns in [1, 31, 33, 70] {
        let matrix = matrix(GgmlDType::F32, 5, columns);
        let x = numbers(columns, 3);
        let expected = products(InstructionSet::Portable, &matrix, 1..5, &x);
        for set in InstructionSet::available() {
            assert_eq!(products(set, &matrix, 1..5, &x), expected, "{set:?} {columns}");
        }
        let mut row = vec![0.0; columns];
        dequantize_rows(&matrix, 1, &mut row);
        let exact: f64 = row.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
        assert!((exact - f64::from(expected[0])).abs() < 1e-5);
    }
}
