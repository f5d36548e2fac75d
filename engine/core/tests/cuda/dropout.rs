//! Dropout: the GPU draws the processor's masks, bit for bit.

use luthier_core::ops::cpu::CpuOps;
use luthier_core::ops::cuda::{CudaOps, NumberType};
use luthier_core::ops::{DropoutMask, Ops, View, ViewMut};

use crate::compare::{Case, activations, compare, random, read};

struct Dropout {
    len: usize,
    /// Elements before the first.
    offset: usize,
    mask: DropoutMask,
}

impl Case for Dropout {
    fn run<O: Ops<Elem = f32>>(&self, ops: &O) -> Vec<(&'static str, Vec<f32>)> {
        let Self { len, offset, mask } = *self;
        let drawn = |values: &[f32], accumulate: bool| {
            let x = activations(ops, values);
            let mut out = activations(ops, &random(2, offset + len));
            ops.dropout(len, mask, View::at(&x, offset), accumulate, ViewMut::at(&mut out, offset)).unwrap();
            read(ops, &out, offset + len)
        };
        let ones = drawn(&vec![1.0; offset + len], false);
        let kept = ones[offset..].iter().map(|value| if *value == 0.0 { 1.0 } else { 2.0 }).collect();
        let x = random(1, offset + len);
        vec![("kept", kept), ("output", drawn(&x, false)), ("sum", drawn(&x, true))]
    }
}

/// Lengths and offsets with and without room for four numbers at once; the longest takes more than one round of the grid.
#[test]
fn dropout() {
    let mask = DropoutMask { key: [7, 1], stream: [3, 0, 11], probability: 0.05 };
    for (len, offset) in [(1, 0), (3, 0), (4, 0), (5, 1), (1023, 2), (4096, 4), (100_003, 3), (3_000_001, 0)] {
        compare(&format!("{len} numbers from {offset}"), &Dropout { len, offset, mask });
    }
    for probability in [0.5, 0.999] {
        let mask = DropoutMask { key: [0, u32::MAX], stream: [u32::MAX, 1, 0], probability };
        compare(&format!("{probability} dropped"), &Dropout { len: 4097, offset: 0, mask });
    }
}

#[test]
fn masks_are_equal_bit_for_bit() {
    let ordinal = std::env::var("LUTHIER_TEST_GPU").map_or(0, |text| text.parse().unwrap());
    let mask = DropoutMask { key: [42, 0], stream: [5, 0, 9], probability: 0.1 };
    let case = Dropout { len: 1_000_003, offset: 0, mask };
    let expected = case.run(&CpuOps::<f32>::new(3)).swap_remove(0).1;
    for kind in [NumberType::F32, NumberType::F16, NumberType::BF16] {
        let found = case.run(&CudaOps::open(ordinal, kind).unwrap()).swap_remove(0).1;
        assert!(found == expected, "{kind:?}");
    }
}
