//! Uniform noise: the GPU draws the processor's numbers.

use luthier_core::ops::cpu::CpuOps;
use luthier_core::ops::cuda::NumberType;
use luthier_core::ops::{Ops, UniformNoise, ViewMut};

use crate::compare::{Case, activations, compare, open, random, read};

struct Noise {
    len: usize,
    /// Elements before the first.
    offset: usize,
    noise: UniformNoise,
}

impl Case for Noise {
    fn run<O: Ops<Elem = f32>>(&self, ops: &O) -> Vec<(&'static str, Vec<f32>)> {
        let Self { len, offset, noise } = *self;
        let added = |values: &[f32]| {
            let mut x = activations(ops, values);
            ops.add_noise(len, noise, ViewMut::at(&mut x, offset)).unwrap();
            read(ops, &x, offset + len)
        };
        vec![("alone", added(&vec![0.0; offset + len])), ("sum", added(&random(1, offset + len)))]
    }
}

/// Lengths that are no multiples of four, and one that takes more than one round of the grid.
#[test]
fn noise() {
    let noise = UniformNoise { key: [7, 1], stream: [3, 0, u32::MAX], bound: 0.03 };
    for (len, offset) in [(1, 0), (3, 1), (1023, 2), (4096, 4), (100_003, 3), (3_000_001, 0)] {
        compare(&format!("{len} numbers from {offset}"), &Noise { len, offset, noise });
    }
}

#[test]
fn noise_in_f32_is_equal_bit_for_bit() {
    let noise = UniformNoise { key: [42, 0], stream: [5, 0, 9], bound: 0.1 };
    let case = Noise { len: 1_000_003, offset: 0, noise };
    assert!(case.run(&open(NumberType::F32)) == case.run(&CpuOps::<f32>::new(3)));
}
