//! Attention: lengths around the tiles' sizes, grouped heads, odd head sizes.

use luthier_core::ops::cuda::NumberType;
use luthier_core::ops::{AttentionGrads, AttentionInputs, AttentionSaved, AttentionShape, Ops, View, ViewMut};

use crate::compare::{Case, activations, compare, compare_with, indices, open, random, read};

struct Attention {
    shape: AttentionShape,
    lengths: &'static [u32],
}

impl Case for Attention {
    fn run<O: Ops<Elem = f32>>(&self, ops: &O) -> Vec<(&'static str, Vec<f32>)> {
        let AttentionShape { heads, key_value_heads, head_dim } = self.shape;
        let mut borders = vec![0];
        for len in self.lengths {
            borders.push(borders[borders.len() - 1] + len);
        }
        let rows = borders[borders.len() - 1] as usize;
        let (wide, narrow) = (rows * heads * head_dim, rows * key_value_heads * head_dim);
        let borders = indices(ops, &borders);
        let (query, key, value) = (
            activations(ops, &random(1, wide)),
            activations(ops, &random(2, narrow)),
            activations(ops, &random(3, narrow)),
        );
        let inputs = || AttentionInputs { query: View::from(&query), key: View::from(&key), value: View::from(&value) };
        let mut output = activations(ops, &vec![f32::NAN; wide]);
        let mut sums = ops.allocate(rows * heads).unwrap();
        ops.attention(self.shape, &borders, inputs(), ViewMut::from(&mut output), ViewMut::from(&mut sums)).unwrap();
        let output_grad = activations(ops, &random(4, wide));
        let [mut dq, mut dk, mut dv] = [wide, narrow, narrow].map(|len| activations(ops, &vec![f32::NAN; len]));
        let saved = AttentionSaved {
            output: View::from(&output),
            log_sum_exp: View::from(&sums),
            output_grad: View::from(&output_grad),
        };
        let grads = AttentionGrads {
            query: ViewMut::from(&mut dq),
            key: ViewMut::from(&mut dk),
            value: ViewMut::from(&mut dv),
        };
        ops.attention_backward(self.shape, &borders, inputs(), saved, grads).unwrap();
        vec![
            ("output", read(ops, &output, wide)),
            ("log_sum_exp", read(ops, &sums, rows * heads)),
            ("query gradient", read(ops, &dq, wide)),
            ("key gradient", read(ops, &dk, narrow)),
            ("value gradient", read(ops, &dv, narrow)),
        ]
    }
}

#[test]
fn attention_and_its_gradients() {
    let cases: [(usize, usize, usize, &[u32]); 8] = [
        (1, 1, 64, &[1, 2]),
        (2, 1, 64, &[63, 64, 65]),
        (9, 3, 64, &[200, 1, 31, 33]),
        (4, 4, 128, &[37, 130, 128]),
        (8, 2, 128, &[257]),
        (3, 3, 8, &[40, 7]),
        (2, 2, 80, &[65, 129]),
        (1, 1, 96, &[700]),
    ];
    for (heads, key_value_heads, head_dim, lengths) in cases {
        let shape = AttentionShape { heads, key_value_heads, head_dim };
        let (what, case) = (format!("{shape:?} over {lengths:?}"), Attention { shape, lengths });
        compare(&what, &case);
        compare_with(&format!("{what}, own kernels"), &case, |kind| open(kind).without_cudnn());
    }
}

#[test]
fn the_same_bits_every_time() {
    let shape = AttentionShape { heads: 8, key_value_heads: 4, head_dim: 128 };
    let case = Attention { shape, lengths: &[700, 37, 1, 512] };
    let ops = open(NumberType::BF16);
    let first = case.run(&ops);
    for _ in 0..3 {
        assert!(case.run(&ops) == first);
    }
}

#[test]
fn attention_over_a_long_sequence() {
    let shape = AttentionShape { heads: 2, key_value_heads: 1, head_dim: 64 };
    compare("4095 rows", &Attention { shape, lengths: &[4095] });
}
