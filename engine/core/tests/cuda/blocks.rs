//! GGML's block types: dequantized on the GPU exactly as on the processor.

use candle_core::quantized::GgmlDType;
use half::{bf16, f16};
use luthier_core::ops::cuda::{CudaOps, NumberType};
use luthier_core::ops::{Ops, View, ViewMut};
use luthier_core::quant::dequantize;
use luthier_core::random::MersenneTwister;
use luthier_core::{HostTensor, StoredType, TensorBytes};

use crate::compare::{activations, indices, read};

/// Every block type, and where in a block its f16 scales and minima lie (of Q8_K: an f32 at 0).
const KINDS: [(GgmlDType, &[usize]); 12] = [
    (GgmlDType::Q4_0, &[0]),
    (GgmlDType::Q4_1, &[0, 2]),
    (GgmlDType::Q5_0, &[0]),
    (GgmlDType::Q5_1, &[0, 2]),
    (GgmlDType::Q8_0, &[0]),
    (GgmlDType::Q8_1, &[0, 2]),
    (GgmlDType::Q2K, &[80, 82]),
    (GgmlDType::Q3K, &[108]),
    (GgmlDType::Q4K, &[0, 2]),
    (GgmlDType::Q5K, &[0, 2]),
    (GgmlDType::Q6K, &[208]),
    (GgmlDType::Q8K, &[]),
];

/// Scales that are special: the largest and the least of f16, negative ones, zeros.
const SCALES: [f32; 10] = [65504.0, 6e-8, -65504.0, -6e-8, 6.1e-5, -0.037, 0.0, 0.0123, -0.0, 1.0];

/// Random bytes in every block, but finite scales: the special ones in turn, then random ones.
fn matrix(kind: GgmlDType, scales: &[usize], [rows, columns]: [usize; 2]) -> HostTensor {
    let mut random = MersenneTwister::new(3);
    let blocks = rows * columns / kind.block_size();
    let mut bytes: Vec<u8> = (0..blocks * kind.type_size()).map(|_| random.next_u32() as u8).collect();
    let mut special = SCALES.into_iter();
    let mut scale = || special.next().unwrap_or_else(|| random.uniform_f32(2.0));
    for block in bytes.chunks_exact_mut(kind.type_size()) {
        for at in scales {
            block[*at..at + 2].copy_from_slice(&f16::from_f32(scale()).to_le_bytes());
        }
        if kind == GgmlDType::Q8K {
            block[..4].copy_from_slice(&(scale() * 1e25).to_le_bytes());
        }
    }
    HostTensor::new(StoredType::Ggml(kind), vec![rows, columns], TensorBytes::Owned(bytes.into()))
}

fn ordinal() -> usize {
    std::env::var("LUTHIER_TEST_GPU").map_or(0, |text| text.parse().unwrap())
}

/// A number as `kind` holds it.
fn rounded(kind: NumberType, value: f32) -> f32 {
    match kind {
        NumberType::F32 => value,
        NumberType::F16 => f16::from_f32(value).to_f32(),
        NumberType::BF16 => bf16::from_f32(value).to_f32(),
    }
}

#[test]
fn rows_of_a_table_bit_for_bit_in_every_type() {
    for compute in [NumberType::F32, NumberType::F16, NumberType::BF16] {
        let ops = CudaOps::open(ordinal(), compute).unwrap();
        for (kind, scales) in KINDS {
            for (rows, blocks) in [(1, 1), (5, 3), (37, 7)] {
                let columns = blocks * kind.block_size();
                let held = matrix(kind, scales, [rows, columns]);
                let expected = dequantize(&held);
                assert!(expected.iter().all(|value| value.is_finite()) && expected.iter().any(|value| *value != 0.0));
                let table = ops.upload_weight(held).unwrap();
                // More than once, out of order; also where the address allows no wide writes.
                let ids: Vec<u32> = (0..rows + 2).map(|i| ((i * 11 + 3) % rows) as u32).collect();
                let numbers = indices(&ops, &ids);
                for offset in [0, 1] {
                    let len = offset + ids.len() * columns;
                    let mut out = activations(&ops, &vec![f32::NAN; len]);
                    ops.embedding(&table, &numbers, ViewMut::at(&mut out, offset)).unwrap();
                    let found = read(&ops, &out, len);
                    assert!(found[..offset].iter().all(|value| value.is_nan()));
                    for (id, found) in ids.iter().zip(found[offset..].chunks_exact(columns)) {
                        let expected = expected.chunks_exact(columns).nth(*id as usize).unwrap();
                        for (column, (found, expected)) in found.iter().zip(expected).enumerate() {
                            let expected = rounded(compute, *expected);
                            let place = format!("{kind:?} as {compute:?}: row {id}, column {column} of {columns}");
                            assert_eq!(found.to_bits(), expected.to_bits(), "{place}: {found} for {expected}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn products_use_the_processors_numbers_and_blocks_are_held_as_they_are() {
    // Not f16: its largest number is below the largest that a block can say, and an infinity times zero is no zero.
    for compute in [NumberType::F32, NumberType::BF16] {
        let ops = CudaOps::open(ordinal(), compute).unwrap();
        for (kind, scales) in KINDS {
            for (rows, blocks) in [(1, 1), (13, 3), (300, 2)] {
                let columns = blocks * kind.block_size();
                let held = matrix(kind, scales, [rows, columns]);
                let (expected, bytes) = (dequantize(&held), held.size_bytes() as u64);
                let before = ops.memory().allocated_bytes;
                let weight = ops.upload_weight(held).unwrap();
                assert_eq!(ops.memory().allocated_bytes - before, bytes, "{kind:?}");
                // The unit matrix times Wᵀ is Wᵀ: every sum has one summand.
                let unit: Vec<f32> = (0..columns * columns).map(|i| f32::from(i % (columns + 1) == 0)).collect();
                let (x, mut out) = (activations(&ops, &unit), activations(&ops, &vec![f32::NAN; rows * columns]));
                ops.linear_forward(columns, View::from(&x), &weight, None, None, None, ViewMut::from(&mut out))
                    .unwrap();
                let found = read(&ops, &out, rows * columns);
                for row in 0..rows {
                    for column in 0..columns {
                        let found = found[column * rows + row];
                        let expected = rounded(compute, expected[row * columns + column]);
                        assert_eq!(found, expected, "{kind:?} as {compute:?} of {rows}×{columns} at {row}, {column}");
                    }
                }
            }
        }
    }
}
