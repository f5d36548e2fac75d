//! Attention of new rows over a cache of keys and values: one row and head at a time.

use super::attention::add_bias;
use super::parallel::{Disjoint, vectorized};
use super::pool::ThreadPool;
use super::product::ScratchPool;
use super::real::Real;
use super::rows;
use crate::ops::{AttentionShape, seen_positions};

/// Shapes as `Ops::cached_attention`; the number of positions follows from the keys.
pub(super) fn forward<E: Real>(
    pool: &mut ThreadPool,
    scratch: &ScratchPool<E>,
    shape: AttentionShape,
    rows: usize,
    [query, key, value]: [&[E]; 3],
    output: &mut [E],
) {
    let AttentionShape { heads, key_value_heads, head_dim, window, .. } = shape;
    let root = (head_dim as f64).sqrt();
    let stride = key_value_heads * head_dim;
    let before = key.len() / stride - rows;
    let scale = E::from_f64(1.0 / root);
    let output = Disjoint::new(output);
    pool.run(rows * heads, &|index| {
        let (row, head) = (index / heads, index % heads);
        let column = head / (heads / key_value_heads) * head_dim;
        let place = index * head_dim..(index + 1) * head_dim;
        let seen = seen_positions(before + row, window);
        let first = seen.start * stride + column;
        scratch.with(|scratch| {
            let mut weights = scratch.take(seen.len());
            score(&query[place.clone()], &key[first..], stride, &mut weights);
            add_bias(&mut weights, shape.slope(head) * root);
            let largest = rows::largest(&weights) * scale;
            let total = rows::exponentials(&mut weights, scale, largest);
            rows::scale(&mut weights, E::from_f64(1.0 / total));
            // SAFETY: one row and head of the output, which no other piece writes.
            average(&weights, &value[first..], stride, unsafe { output.range(place) });
            scratch.give(weights);
        });
    });
}

vectorized! {
    /// `scores[i] = query · (row i of keys)`, rows `stride` apart.
    fn score<E>(query: &[E], keys: &[E], stride: usize, scores: &mut [E]) {
        for (score, key) in scores.iter_mut().zip(keys.chunks(stride)) {
            *score = rows::dot(query, &key[..query.len()]);
        }
    }
}

vectorized! {
    /// `out = Σ weights[i] · (row i of values)`, rows `stride` apart.
    fn average<E>(weights: &[E], values: &[E], stride: usize, out: &mut [E]) {
        out.fill(E::ZERO);
        for (weight, value) in weights.iter().zip(values.chunks(stride)) {
            for (out, value) in out.iter_mut().zip(value) {
                *out = weight.fused(*value, *out);
            }
        }
    }
}
