//! Attention over kept keys and values: caches, new rows and windows around the sizes of tiles, grouped heads, odd head sizes, a sequence
//! in a larger buffer.

use luthier_core::ops::{AttentionInputs, AttentionShape, Ops, View, ViewMut};

use crate::compare::{Case, activations, compare, random, read};

struct CachedAttention {
    shape: AttentionShape,
    /// Positions before the new rows.
    cached: usize,
    rows: usize,
}

impl Case for CachedAttention {
    fn run<O: Ops<Elem = f32>>(&self, ops: &O) -> Vec<(&'static str, Vec<f32>)> {
        let Self { shape, cached, rows } = *self;
        let AttentionShape { heads, key_value_heads, head_dim, .. } = shape;
        let positions = cached + rows;
        let (wide, narrow) = (rows * heads * head_dim, positions * key_value_heads * head_dim);
        // Another block's numbers come before and after.
        let place = 3 * key_value_heads * head_dim;
        let query = activations(ops, &random(1, wide));
        let [key, value] = [2, 3].map(|seed| activations(ops, &random(seed, place + narrow + 64)));
        let mut output = activations(ops, &vec![f32::NAN; wide]);
        let inputs =
            AttentionInputs { query: View::from(&query), key: View::at(&key, place), value: View::at(&value, place) };
        ops.cached_attention(shape, rows, positions, inputs, ViewMut::from(&mut output)).unwrap();
        vec![("output", read(ops, &output, wide))]
    }
}

#[test]
fn cached_attention() {
    let shapes = [(9, 3, 64), (1, 1, 64), (8, 8, 128), (8, 2, 128), (3, 3, 8), (2, 1, 80), (2, 2, 5)];
    for (heads, key_value_heads, head_dim) in shapes {
        let shape = AttentionShape { heads, key_value_heads, head_dim, window: None, alibi: false };
        for cached in [0, 1, 63, 65, 1000] {
            for rows in [1, 3, 8, 64] {
                let what = format!("{rows} rows after {cached}, {shape:?}");
                compare(&what, &CachedAttention { shape, cached, rows });
            }
        }
    }
}

#[test]
fn cached_attention_within_a_sliding_window() {
    for (heads, key_value_heads, head_dim) in [(9, 3, 64), (8, 2, 128), (2, 2, 5)] {
        for window in [1, 2, 63, 64, 65, 500].map(Some) {
            let shape = AttentionShape { heads, key_value_heads, head_dim, window, alibi: false };
            for cached in [0, 1, 64, 1000] {
                for rows in [1, 3, 8, 64] {
                    let what = format!("{rows} rows after {cached}, {shape:?}");
                    compare(&what, &CachedAttention { shape, cached, rows });
                }
            }
        }
    }
}

#[test]
fn cached_attention_with_alibi() {
    for (heads, key_value_heads, head_dim) in [(40, 40, 128), (5, 5, 64), (6, 2, 5)] {
        for window in [None, Some(65)] {
            let shape = AttentionShape { heads, key_value_heads, head_dim, window, alibi: true };
            for cached in [0, 1, 64, 1000] {
                for rows in [1, 3, 64] {
                    let what = format!("{rows} rows after {cached}, {shape:?}");
                    compare(&what, &CachedAttention { shape, cached, rows });
                }
            }
        }
    }
}

/// New rows without any before them: the packed kernels' result.
struct FirstRows(AttentionShape);

impl Case for FirstRows {
    fn run<O: Ops<Elem = f32>>(&self, ops: &O) -> Vec<(&'static str, Vec<f32>)> {
        const ROWS: usize = 130;
        let AttentionShape { heads, key_value_heads, head_dim, .. } = self.0;
        let (wide, narrow) = (ROWS * heads * head_dim, ROWS * key_value_heads * head_dim);
        let query = activations(ops, &random(1, wide));
        let [key, value] = [2, 3].map(|seed| activations(ops, &random(seed, narrow)));
        let inputs = || AttentionInputs { query: View::from(&query), key: View::from(&key), value: View::from(&value) };
        let [mut packed, mut cached] = [0, 1].map(|_| activations(ops, &vec![f32::NAN; wide]));
        let mut sums = ops.allocate(ROWS * heads).unwrap();
        let borders = crate::compare::indices(ops, &[0, ROWS as u32]);
        ops.attention(self.0, &borders, inputs(), ViewMut::from(&mut packed), ViewMut::from(&mut sums)).unwrap();
        ops.cached_attention(self.0, ROWS, ROWS, inputs(), ViewMut::from(&mut cached)).unwrap();
        let (packed, cached) = (read(ops, &packed, wide), read(ops, &cached, wide));
        let off = packed.iter().zip(&cached).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off < 0.02, "the two kernels differ by {off}");
        vec![("packed", packed), ("cached", cached)]
    }
}

#[test]
fn first_rows_are_those_of_packed_attention() {
    for (heads, key_value_heads, head_dim) in [(9, 3, 64), (4, 2, 128), (2, 2, 80)] {
        for window in [None, Some(1), Some(65)] {
            for alibi in [false, true] {
                let shape = AttentionShape { heads, key_value_heads, head_dim, window, alibi };
                compare(&format!("{shape:?}"), &FirstRows(shape));
            }
        }
    }
}

#[test]
fn rows_that_are_not_among_the_positions_are_refused() {
    let ops = luthier_core::ops::cpu::CpuOps::<f32>::new(1);
    let numbers = activations(&ops, &random(1, 64));
    for (rows, positions, heads) in [(0, 1, 2), (3, 2, 2), (1, 1, 3)] {
        let shape = AttentionShape { heads, key_value_heads: 2, head_dim: 4, window: None, alibi: false };
        let inputs =
            AttentionInputs { query: View::from(&numbers), key: View::from(&numbers), value: View::from(&numbers) };
        let mut output = activations(&ops, &[0.0; 64]);
        assert!(ops.cached_attention(shape, rows, positions, inputs, ViewMut::from(&mut output)).is_err());
    }
}
