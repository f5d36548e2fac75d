//! Attention: lengths and windows around the tiles' sizes, grouped heads, odd head sizes.

use luthier_core::ops::cuda::NumberType;
use luthier_core::ops::{AttentionGrads, AttentionInputs, AttentionSaved, AttentionShape, Ops, View, ViewMut};

use crate::compare::{Case, activations, compare, compare_with, indices, open, random, read};

struct Attention {
    shape: AttentionShape,
    lengths: &'static [u32],
}

impl Case for Attention {
    fn run<O: Ops<Elem = f32>>(&self, ops: &O) -> Vec<(&'static str, Vec<f32>)> {
        let AttentionShape { heads, key_value_heads, head_dim, .. } = self.shape;
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
        let mut results = vec![
            ("output", read(ops, &output, wide)),
            ("log_sum_exp", read(ops, &sums, rows * heads)),
            ("value gradient", read(ops, &dv, narrow)),
        ];
        let gradients = [("query gradient", read(ops, &dq, wide)), ("key gradient", read(ops, &dk, narrow))];
        if self.shape.window == Some(1) {
            // Of one key alone, the softmax is 1 whatever the query and the key are: what is left is rounding, with nothing to compare.
            assert!(gradients.iter().flat_map(|(_, values)| values).all(|value| value.abs() < 0.01));
        } else {
            results.extend(gradients);
        }
        results
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
        both_ways(AttentionShape { heads, key_value_heads, head_dim, window: None, alibi: false }, lengths);
    }
}

/// By cuDNN where it takes the shape, and by our own kernels.
fn both_ways(shape: AttentionShape, lengths: &'static [u32]) {
    let (what, case) = (format!("{shape:?} over {lengths:?}"), Attention { shape, lengths });
    compare(&what, &case);
    compare_with(&format!("{what}, own kernels"), &case, |kind| open(kind).without_cudnn());
}

#[test]
fn sliding_windows() {
    for (heads, key_value_heads, head_dim) in [(4, 2, 64), (2, 1, 128), (2, 2, 80)] {
        for window in [1, 2, 31, 33, 63, 64, 65, 127, 500].map(Some) {
            both_ways(AttentionShape { heads, key_value_heads, head_dim, window, alibi: false }, &[1, 65, 700, 128]);
        }
    }
}

/// On tensor cores and not, heads that are a power of two and not, grouped ones, with a window.
#[test]
fn alibi() {
    let lengths = &[1, 65, 700, 128];
    for (heads, key_value_heads, head_dim) in
        [(8, 8, 128), (5, 5, 128), (40, 40, 128), (6, 3, 64), (5, 1, 80), (3, 3, 8)]
    {
        for window in [None, Some(65)] {
            both_ways(AttentionShape { heads, key_value_heads, head_dim, window, alibi: true }, lengths);
        }
    }
}

/// A window that no sequence is as long as changes no bit.
#[test]
fn a_window_longer_than_every_sequence_is_none() {
    let run = |window, own: bool| {
        let case = Attention {
            shape: AttentionShape { heads: 4, key_value_heads: 2, head_dim: 64, window, alibi: false },
            lengths: &[130, 7, 200],
        };
        let ops = open(NumberType::BF16);
        case.run(&if own { ops.without_cudnn() } else { ops })
    };
    for own in [false, true] {
        assert!(run(Some(201), own) == run(None, own));
        assert!(run(Some(150), own) != run(None, own));
    }
}

#[test]
fn the_same_bits_every_time() {
    let ops = open(NumberType::BF16);
    for window in [None, Some(100)] {
        let shape = AttentionShape { heads: 8, key_value_heads: 4, head_dim: 128, window, alibi: false };
        let case = Attention { shape, lengths: &[700, 37, 1, 512] };
        let first = case.run(&ops);
        for _ in 0..3 {
            assert!(case.run(&ops) == first, "window {window:?}");
        }
    }
}

#[test]
fn attention_over_a_long_sequence() {
    let shape = AttentionShape { heads: 2, key_value_heads: 1, head_dim: 64, window: None, alibi: false };
    compare("4095 rows", &Attention { shape, lengths: &[4095] });
}
