//! Causal attention over packed sequences, block by block; the full matrix of scores never exists.

use super::attention_band::{Band, QUERIES};
use super::attention_panels::{Panels, Rows, hide, pack, panels_len, scores, weighted, weighted_by_key};
use super::parallel::{Disjoint, for_rows};
use super::pool::ThreadPool;
use super::product::{ScratchPool, aligned};
use super::real::Real;
use super::rows;
use crate::ops::AttentionShape;

/// One head of one sequence.
struct Piece {
    sequence: usize,
    first: usize,
    len: usize,
    head: usize,
    key_value_head: usize,
}

impl Piece {
    fn new(index: usize, borders: &[u32], shape: AttentionShape) -> Self {
        let (sequence, head) = (index / shape.heads, index % shape.heads);
        let (first, end) = (borders[sequence] as usize, borders[sequence + 1] as usize);
        let group = shape.heads / shape.key_value_heads;
        Self { sequence, first, len: end - first, head, key_value_head: head / group }
    }

    /// The rows of a head from a position of the sequence on.
    fn rows<E>(&self, buffer: &[E], heads: usize, head: usize, head_dim: usize, position: usize) -> Rows<E> {
        let stride = heads * head_dim;
        Rows { start: buffer[(self.first + position) * stride + head * head_dim..].as_ptr(), stride }
    }
}

/// The device's threads and scratch.
pub(super) struct Workers<'a, E> {
    pub pool: &'a mut ThreadPool,
    pub scratch: &'a ScratchPool<E>,
    pub packed: &'a mut Vec<E>,
}

/// A matrix of keys or values that is packed once for each sequence and head.
#[derive(Clone, Copy)]
struct Side<'a, E> {
    rows: &'a [E],
    transposed: bool,
}

/// The right sides of a pass, packed: for each sequence and key/value head, the panels of each side.
struct PackedSides<'a, E> {
    numbers: &'a [E],
    /// Where a sequence's panels begin.
    offsets: Vec<usize>,
    transposed: Vec<bool>,
    shape: AttentionShape,
}

impl<'a, E: Real> PackedSides<'a, E> {
    fn new(
        pool: &mut ThreadPool,
        packed: &'a mut Vec<E>,
        shape: AttentionShape,
        borders: &[u32],
        sides: &[Side<'_, E>],
    ) -> Self {
        let AttentionShape { key_value_heads, head_dim, .. } = shape;
        let transposed: Vec<bool> = sides.iter().map(|side| side.transposed).collect();
        let mut offsets = vec![0];
        for pair in borders.windows(2) {
            let len = (pair[1] - pair[0]) as usize;
            let one: usize = transposed.iter().map(|transposed| side_len::<E>(*transposed, len, head_dim)).sum();
            offsets.push(offsets[offsets.len() - 1] + key_value_heads * one);
        }
        let whole = aligned(packed, offsets[offsets.len() - 1]);
        let places = Disjoint::new(whole);
        pool.run((borders.len() - 1) * key_value_heads, &|index| {
            let (sequence, head) = (index / key_value_heads, index % key_value_heads);
            let (first, len) = (borders[sequence] as usize, (borders[sequence + 1] - borders[sequence]) as usize);
            let one = (offsets[sequence + 1] - offsets[sequence]) / key_value_heads;
            let mut at = offsets[sequence] + head * one;
            let stride = key_value_heads * head_dim;
            for side in sides {
                let size = side_len::<E>(side.transposed, len, head_dim);
                let start = side.rows[first * stride + head * head_dim..].as_ptr();
                // SAFETY: this piece's place; the rows of one head of one sequence.
                unsafe {
                    let place = places.range(at..at + size);
                    if side.transposed {
                        pack(start, [1, stride], [head_dim, len], place);
                    } else {
                        pack(start, [stride, 1], [len, head_dim], place);
                    }
                }
                at += size;
            }
        });
        Self { numbers: whole, offsets, transposed, shape }
    }

    /// A piece's panels of each side, in the order of [`Self::new`], from key `first` on.
    fn of<const SIDES: usize>(&self, piece: &Piece, first: usize) -> [Panels<'_, E>; SIDES] {
        let AttentionShape { key_value_heads, head_dim, .. } = self.shape;
        let begin = self.offsets[piece.sequence];
        let one = (self.offsets[piece.sequence + 1] - begin) / key_value_heads;
        let mut at = begin + piece.key_value_head * one;
        std::array::from_fn(|side| {
            let transposed = self.transposed[side];
            let size = side_len::<E>(transposed, piece.len, head_dim);
            at += size;
            let numbers = &self.numbers[at - size..at];
            if transposed {
                Panels::new(numbers, head_dim, piece.len).columns_from(first)
            } else {
                Panels::new(numbers, piece.len, head_dim).rows_from(first)
            }
        })
    }
}

fn side_len<E: Real>(transposed: bool, len: usize, head_dim: usize) -> usize {
    if transposed { panels_len::<E>(head_dim, len) } else { panels_len::<E>(len, head_dim) }
}

/// Forward pass; shapes as `Ops::attention`.
pub(super) fn forward<E: Real>(
    workers: Workers<'_, E>,
    shape: AttentionShape,
    borders: &[u32],
    [query, key, value]: [&[E]; 3],
    output: &mut [E],
    log_sum_exp: &mut [E],
) {
    let AttentionShape { heads, head_dim, window, .. } = shape;
    let root = (head_dim as f64).sqrt();
    let scale = E::from_f64(1.0 / root);
    let sequences = borders.len() - 1;
    let longest = borders.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0) as usize;
    let blocks = longest.div_ceil(QUERIES);
    let (output, log_sum_exp) = (Disjoint::new(output), Disjoint::new(log_sum_exp));
    let Workers { pool, scratch, packed } = workers;
    let sides = [Side { rows: key, transposed: true }, Side { rows: value, transposed: false }];
    let packed = PackedSides::new(pool, packed, shape, borders, &sides);
    pool.run(sequences * heads * blocks, &|index| {
        // The longest blocks first, so that threads finish together.
        let block = blocks - 1 - index / (sequences * heads);
        let piece = Piece::new(index % (sequences * heads), borders, shape);
        let slope = shape.slope(piece.head) * root;
        let Some(band) = Band::new::<E>(block, piece.len, window) else { return };
        let Band { begin, count, seen, .. } = band;
        let q = piece.rows(query, heads, piece.head, head_dim, begin);
        let [k, v] = packed.of(&piece, band.first);
        scratch.with(|scratch| {
            let stride = band.stride::<E>(piece.len);
            let mut weights = scratch.take(count * stride);
            // SAFETY: rows of this piece; `weights` is a matrix of its own.
            unsafe { scores(count, seen, q, k, (weights.as_mut_ptr(), stride)) };
            for (i, row) in weights.chunks_exact_mut(stride).enumerate() {
                let visible = band.visible(i);
                hide(i, &visible, row);
                let row = &mut row[visible];
                add_bias(row, slope);
                let largest = rows::largest(row) * scale;
                let total = rows::exponentials(row, scale, largest);
                rows::scale(row, E::from_f64(1.0 / total));
                let at = (piece.first + begin + i) * heads + piece.head;
                // SAFETY: this row and head belong to this piece.
                unsafe { log_sum_exp.range(at..at + 1)[0] = largest + E::from_f64(total.ln()) };
            }
            let left = Rows { start: weights.as_ptr(), stride };
            let at = (piece.first + begin) * heads * head_dim + piece.head * head_dim;
            // SAFETY: this piece's rows and columns of the output.
            unsafe { weighted(count, seen, left, v, (output.start().add(at), heads * head_dim)) };
            scratch.give(weights);
        });
    });
}

/// What the backward pass reads and writes; shapes as `Ops::attention_backward`.
pub(super) struct Backward<'a, E> {
    pub query: &'a [E],
    pub key: &'a [E],
    pub value: &'a [E],
    pub output: &'a [E],
    pub log_sum_exp: &'a [E],
    pub output_grad: &'a [E],
    pub query_grad: &'a mut [E],
    pub key_grad: &'a mut [E],
    pub value_grad: &'a mut [E],
    /// `[2, rows, heads * head_dim]`: gradients of keys and values for each query head alone. Not touched where every query head has keys
    /// of its own.
    pub per_head: &'a mut [E],
}

/// Backward pass.
pub(super) fn backward<E: Real>(
    workers: Workers<'_, E>,
    shape: AttentionShape,
    borders: &[u32],
    arrays: Backward<'_, E>,
) {
    let AttentionShape { heads, key_value_heads, head_dim, window, .. } = shape;
    let root = (head_dim as f64).sqrt();
    let Backward { query, key, value, output, log_sum_exp, output_grad, query_grad, key_grad, value_grad, per_head } =
        arrays;
    let scale = E::from_f64(1.0 / root);
    let sequences = borders.len() - 1;
    let width = heads * head_dim;
    let grouped = heads != key_value_heads;
    let rows = query_grad.len() / width;
    let query_grad = Disjoint::new(query_grad);
    let Workers { pool, scratch, packed } = workers;
    let across = |rows| Side { rows, transposed: true };
    let sides = [across(key), across(value), Side { rows: key, transposed: false }];
    let packed = PackedSides::new(pool, packed, shape, borders, &sides);
    {
        let (keys_out, values_out) = if grouped {
            let (keys, values) = per_head.split_at_mut(rows * width);
            (Disjoint::new(keys), Disjoint::new(values))
        } else {
            (Disjoint::new(&mut *key_grad), Disjoint::new(&mut *value_grad))
        };
        pool.run(sequences * heads, &|index| {
            let piece = Piece::new(index, borders, shape);
            let slope = shape.slope(piece.head) * root;
            let column = piece.first * width + piece.head * head_dim;
            scratch.with(|scratch| {
                let blocks = piece.len.div_ceil(QUERIES);
                // The last block comes first: it sets what the others add to. Keys that its window does not reach start from zero.
                for band in (0..blocks).rev().filter_map(|block| Band::new::<E>(block, piece.len, window)) {
                    let Band { begin, count, first, keys, seen, .. } = band;
                    let accumulate = begin + count < piece.len;
                    let of_keys = column + first * width;
                    let [keys_across, values_across, k] = packed.of(&piece, first);
                    let q = piece.rows(query, heads, piece.head, head_dim, begin);
                    let out = piece.rows(output, heads, piece.head, head_dim, begin);
                    let grad = piece.rows(output_grad, heads, piece.head, head_dim, begin);
                    let stride = band.stride::<E>(piece.len);
                    let mut probabilities = scratch.take(count * stride);
                    let mut score_grad = scratch.take(count * stride);
                    let mut panels = [0; 2].map(|_| scratch.take(panels_len::<E>(count, head_dim)));
                    // SAFETY: rows and columns of this head and sequence, which no other piece writes.
                    unsafe {
                        if !accumulate {
                            for start in (0..first).map(|key| column + key * width) {
                                keys_out.range(start..start + head_dim).fill(E::ZERO);
                                values_out.range(start..start + head_dim).fill(E::ZERO);
                            }
                        }
                        scores(count, seen, q, keys_across, (probabilities.as_mut_ptr(), stride));
                        scores(count, seen, grad, values_across, (score_grad.as_mut_ptr(), stride));
                        let both = probabilities.chunks_exact_mut(stride).zip(score_grad.chunks_exact_mut(stride));
                        for (i, (row, row_grad)) in both.enumerate() {
                            let visible = band.visible(i);
                            hide(i, &visible, row);
                            hide(i, &visible, row_grad);
                            let (row, row_grad) = (&mut row[visible.clone()], &mut row_grad[visible]);
                            let at = (piece.first + begin + i) * heads + piece.head;
                            add_bias(row, slope);
                            rows::exponentials(row, scale, log_sum_exp[at]);
                            let one =
                                |rows: Rows<E>| std::slice::from_raw_parts(rows.start.add(i * rows.stride), head_dim);
                            let pull = rows::dot(one(out), one(grad));
                            rows::softmax_backward(row, row_grad, pull, scale);
                        }
                        for (rows, panels) in [q, grad].into_iter().zip(&mut panels) {
                            pack(rows.start, [rows.stride, 1], [count, head_dim], panels);
                        }
                        let [q, grad] = [0, 1].map(|side| Panels::new(&panels[side], count, head_dim));
                        let p = Rows { start: probabilities.as_ptr(), stride };
                        let ds = Rows { start: score_grad.as_ptr(), stride };
                        weighted(count, seen, ds, k, (query_grad.start().add(column + begin * width), width));
                        let place = (keys_out.start().add(of_keys), width);
                        weighted_by_key(keys, seen, ds, q, place, accumulate);
                        let place = (values_out.start().add(of_keys), width);
                        weighted_by_key(keys, seen, p, grad, place, accumulate);
                    }
                    for vector in [probabilities, score_grad].into_iter().chain(panels) {
                        scratch.give(vector);
                    }
                }
            });
        });
    }
    if grouped {
        let (keys, values) = per_head.split_at(rows * width);
        let narrow = key_value_heads * head_dim;
        for (from, to) in [(keys, key_grad), (values, value_grad)] {
            let to = Disjoint::new(to);
            for_rows(pool, rows, width, |range| {
                for row in range {
                    // SAFETY: rows of this piece.
                    let to = unsafe { to.range(row * narrow..(row + 1) * narrow) };
                    sum_groups(&from[row * width..(row + 1) * width], to, head_dim);
                }
            });
        }
    }
}

/// Takes ALiBi's share from the unscaled scores of one query's keys, of which the last is its own: `slope` is per position, times √head_dim.
pub(super) fn add_bias<E: Real>(scores: &mut [E], slope: f64) {
    if slope > 0.0 {
        let farthest = scores.len() as f64 - 1.0;
        rows::add_ramp(scores, E::from_f64(-slope * farthest), E::from_f64(slope));
    }
}

/// Each head of `to` = the sum of its group's heads in `from`.
fn sum_groups<E: Real>(from: &[E], to: &mut [E], head_dim: usize) {
    let group = from.len() / to.len() * head_dim;
    for (to, from) in to.chunks_exact_mut(head_dim).zip(from.chunks_exact(group)) {
        let (first, others) = from.split_at(head_dim);
        to.copy_from_slice(first);
        for other in others.chunks_exact(head_dim) {
            rows::add(to, other);
        }
    }
}
