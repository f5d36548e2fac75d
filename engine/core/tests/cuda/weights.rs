//! Weights of 4 and 8 bits: dequantized exactly as on the processor.

use luthier_core::ops::cuda::{CudaOps, NumberType};
use luthier_core::ops::{Ops, View, ViewMut};
use luthier_core::quant::{WeightStorage, convert, dequantize};
use luthier_core::{HostTensor, StoredType, TensorBytes};

use crate::compare::{activations, random, read};

/// A matrix with the blocks that are special: zeros, one number, a large and a tiny one.
fn matrix([rows, columns]: [usize; 2]) -> HostTensor {
    let mut values = random(1, rows * columns);
    for (index, value) in values.iter_mut().enumerate() {
        *value *= match index / 64 % 5 {
            0 => 0.0,
            1 => 1e4,
            2 => 1e-6,
            _ => 1.0,
        };
    }
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    HostTensor::new(StoredType::F32, vec![rows, columns], TensorBytes::Owned(bytes.into()))
}

#[test]
fn dequantized_bit_for_bit() {
    let ordinal = std::env::var("LUTHIER_TEST_GPU").map_or(0, |text| text.parse().unwrap());
    // Rows that are whole blocks and rows that are not; more scales than one nested block has.
    for [rows, columns] in [[8, 64], [48, 576], [7, 40], [300, 72], [5, 13]] {
        let held = WeightStorage::ALL.map(|storage| convert("weight", matrix([rows, columns]), storage).unwrap());
        // Any codes are codes of fp4, too.
        let as_fp4 = held.iter().filter(|held| held.stored == StoredType::Nf4);
        let fp4: Vec<HostTensor> = as_fp4.map(|held| HostTensor { stored: StoredType::Fp4, ..held.clone() }).collect();
        assert_eq!(fp4.len(), 2);
        for held in held.into_iter().chain(fp4) {
            let stored = held.stored.name();
            let expected = dequantize(&held);
            let ops = CudaOps::open(ordinal, NumberType::F32).unwrap();
            let weight = ops.upload_weight(held).unwrap();
            // The unit matrix times Wᵀ is Wᵀ: every sum has one summand.
            let unit: Vec<f32> = (0..columns * columns).map(|i| f32::from(i % (columns + 1) == 0)).collect();
            let (x, mut out) = (activations(&ops, &unit), activations(&ops, &vec![f32::NAN; rows * columns]));
            ops.linear_forward(columns, View::from(&x), &weight, None, None, None, ViewMut::from(&mut out)).unwrap();
            let found = read(&ops, &out, rows * columns);
            for row in 0..rows {
                for column in 0..columns {
                    let (found, expected) = (found[column * rows + row], expected[row * columns + column]);
                    assert_eq!(found, expected, "{stored} of {rows}×{columns} at {row}, {column}");
                }
            }
        }
    }
}
