//! Causal attention over packed sequences, block by block; the full matrix of scores never exists.

use super::kernel::Segment;
use super::parallel::{Disjoint, for_rows};
use super::pool::ThreadPool;
use super::product::{PackScratch, Product, Right, ScratchPool, Term};
use super::real::Real;
use super::rows;
use crate::ops::AttentionShape;

/// Queries that are worked on together.
const QUERIES: usize = 64;

/// One head's rows inside rows of several heads.
#[derive(Clone, Copy)]
struct Rows<E> {
    start: *const E,
    stride: usize,
}

impl<E> Rows<E> {
    fn left(self, k: usize) -> Segment<E> {
        Segment { a: self.start, row_stride: self.stride, column_stride: 1, k }
    }

    fn left_transposed(self, k: usize) -> Segment<E> {
        Segment { a: self.start, row_stride: 1, column_stride: self.stride, k }
    }

    fn right<'a>(self) -> Right<'a, E> {
        Right::Strided { start: self.start, row_stride: self.stride, column_stride: 1 }
    }

    fn right_transposed<'a>(self) -> Right<'a, E> {
        Right::Strided { start: self.start, row_stride: 1, column_stride: self.stride }
    }
}

/// `c [m, n] (+)= left · right`.
///
/// # Safety
/// As [`Product::run_here`].
unsafe fn multiply<E: Real>(
    (m, n): (usize, usize),
    left: Segment<E>,
    right: Right<'_, E>,
    (c, stride): (*mut E, usize),
    accumulate: bool,
    pack: &mut PackScratch<E>,
) {
    let product = Product {
        m,
        n,
        alpha: E::ONE,
        terms: &[Term { left, right }],
        c,
        row_stride: stride,
        column_stride: 1,
        start: if accumulate { c } else { std::ptr::null() },
        start_row_stride: stride,
        start_column_stride: 1,
    };
    // SAFETY: the caller's promise.
    unsafe { product.run_here(pack) }
}

/// One head of one sequence.
struct Piece {
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
        Self { first, len: end - first, head, key_value_head: head / group }
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
    let AttentionShape { heads, key_value_heads, head_dim } = shape;
    let scale = E::from_f64(1.0 / (head_dim as f64).sqrt());
    let sequences = borders.len() - 1;
    let longest = borders.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0) as usize;
    let blocks = longest.div_ceil(QUERIES);
    let (output, log_sum_exp) = (Disjoint::new(output), Disjoint::new(log_sum_exp));
    workers.pool.run(sequences * heads * blocks, &|index| {
        // The longest blocks first, so that threads finish together.
        let block = blocks - 1 - index / (sequences * heads);
        let piece = Piece::new(index % (sequences * heads), borders, shape);
        let begin = block * QUERIES;
        if begin >= piece.len {
            return;
        }
        let count = (piece.len - begin).min(QUERIES);
        let keys = begin + count;
        let q = piece.rows(query, heads, piece.head, head_dim, begin);
        let k = piece.rows(key, key_value_heads, piece.key_value_head, head_dim, 0);
        let v = piece.rows(value, key_value_heads, piece.key_value_head, head_dim, 0);
        workers.scratch.with(|pack| {
            let mut scores = pack.take(count * keys);
            // SAFETY: rows of this piece; `scores` is a matrix of its own.
            unsafe {
                let place = (scores.as_mut_ptr(), keys);
                multiply((count, keys), q.left(head_dim), k.right_transposed(), place, false, pack);
            }
            for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
                let (seen, hidden) = row.split_at_mut(begin + i + 1);
                let largest = rows::largest(seen) * scale;
                let total = rows::exponentials(seen, scale, largest);
                rows::scale(seen, E::from_f64(1.0 / total));
                hidden.fill(E::ZERO);
                let at = (piece.first + begin + i) * heads + piece.head;
                // SAFETY: this row and head belong to this piece.
                unsafe { log_sum_exp.range(at..at + 1)[0] = largest + E::from_f64(total.ln()) };
            }
            let left = Segment { a: scores.as_ptr(), row_stride: keys, column_stride: 1, k: keys };
            let at = (piece.first + begin) * heads * head_dim + piece.head * head_dim;
            // SAFETY: this piece's rows and columns of the output.
            unsafe {
                let place = (output.start().add(at), heads * head_dim);
                multiply((count, head_dim), left, v.right(), place, false, pack);
            }
            pack.give(scores);
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
    let AttentionShape { heads, key_value_heads, head_dim } = shape;
    let Backward { query, key, value, output, log_sum_exp, output_grad, query_grad, key_grad, value_grad, per_head } =
        arrays;
    let scale = E::from_f64(1.0 / (head_dim as f64).sqrt());
    let sequences = borders.len() - 1;
    let width = heads * head_dim;
    let grouped = heads != key_value_heads;
    let rows = query_grad.len() / width;
    let query_grad = Disjoint::new(query_grad);
    {
        let (keys_out, values_out) = if grouped {
            let (keys, values) = per_head.split_at_mut(rows * width);
            (Disjoint::new(keys), Disjoint::new(values))
        } else {
            (Disjoint::new(&mut *key_grad), Disjoint::new(&mut *value_grad))
        };
        workers.pool.run(sequences * heads, &|index| {
            let piece = Piece::new(index, borders, shape);
            let k = piece.rows(key, key_value_heads, piece.key_value_head, head_dim, 0);
            let v = piece.rows(value, key_value_heads, piece.key_value_head, head_dim, 0);
            let column = piece.first * width + piece.head * head_dim;
            workers.scratch.with(|pack| {
                let blocks = piece.len.div_ceil(QUERIES);
                // The last block comes first: it is the one that reaches all keys, so it sets what the others add to.
                for block in (0..blocks).rev() {
                    let begin = block * QUERIES;
                    let count = (piece.len - begin).min(QUERIES);
                    let keys = begin + count;
                    let q = piece.rows(query, heads, piece.head, head_dim, begin);
                    let out = piece.rows(output, heads, piece.head, head_dim, begin);
                    let grad = piece.rows(output_grad, heads, piece.head, head_dim, begin);
                    let mut probabilities = pack.take(count * keys);
                    let mut score_grad = pack.take(count * keys);
                    let accumulate = block + 1 < blocks;
                    // SAFETY: rows and columns of this head and sequence, which no other piece writes.
                    unsafe {
                        let size = (count, keys);
                        let place = (probabilities.as_mut_ptr(), keys);
                        multiply(size, q.left(head_dim), k.right_transposed(), place, false, pack);
                        let place = (score_grad.as_mut_ptr(), keys);
                        multiply(size, grad.left(head_dim), v.right_transposed(), place, false, pack);
                        let both = probabilities.chunks_exact_mut(keys).zip(score_grad.chunks_exact_mut(keys));
                        for (i, (row, row_grad)) in both.enumerate() {
                            let (seen, hidden) = row.split_at_mut(begin + i + 1);
                            let (seen_grad, hidden_grad) = row_grad.split_at_mut(begin + i + 1);
                            let at = (piece.first + begin + i) * heads + piece.head;
                            rows::exponentials(seen, scale, log_sum_exp[at]);
                            let one =
                                |rows: Rows<E>| std::slice::from_raw_parts(rows.start.add(i * rows.stride), head_dim);
                            let pull = rows::dot(one(out), one(grad));
                            rows::softmax_backward(seen, seen_grad, pull, scale);
                            hidden.fill(E::ZERO);
                            hidden_grad.fill(E::ZERO);
                        }
                        let p = Rows { start: probabilities.as_ptr(), stride: keys };
                        let ds = Rows { start: score_grad.as_ptr(), stride: keys };
                        let place = (query_grad.start().add(column + begin * width), width);
                        multiply((count, head_dim), ds.left(keys), k.right(), place, false, pack);
                        let size = (keys, head_dim);
                        let place = (keys_out.start().add(column), width);
                        multiply(size, ds.left_transposed(count), q.right(), place, accumulate, pack);
                        let place = (values_out.start().add(column), width);
                        multiply(size, p.left_transposed(count), grad.right(), place, accumulate, pack);
                    }
                    pack.give(probabilities);
                    pack.give(score_grad);
                }
            });
        });
    }
    if grouped {
        let (keys, values) = per_head.split_at(rows * width);
        let narrow = key_value_heads * head_dim;
        for (from, to) in [(keys, key_grad), (values, value_grad)] {
            let to = Disjoint::new(to);
            for_rows(workers.pool, rows, width, |range| {
                for row in range {
                    // SAFETY: rows of this piece.
                    let to = unsafe { to.range(row * narrow..(row + 1) * narrow) };
                    sum_groups(&from[row * width..(row + 1) * width], to, head_dim);
                }
            });
        }
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
