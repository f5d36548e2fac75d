//! The keys that a block of queries works on.

use std::ops::Range;

use super::attention_panels::band_step;
use super::real::Real;
use crate::ops::seen_positions;

/// Queries that are worked on together; a multiple of the rows that the products take together.
pub(super) const QUERIES: usize = 64;

/// A block of queries of one sequence, with the keys from the first panels that its window reaches on. Keys are counted from there.
pub(super) struct Band {
    /// The block's first query and their number.
    pub begin: usize,
    pub count: usize,
    /// The first key's position.
    pub first: usize,
    /// Keys up to the last query's own.
    pub keys: usize,
    /// Keys up to the first query's own.
    pub seen: usize,
    window: Option<usize>,
}

impl Band {
    /// Block `block` of a sequence of `len` positions, where it has such a block.
    pub fn new<E: Real>(block: usize, len: usize, window: Option<usize>) -> Option<Self> {
        let begin = block * QUERIES;
        let count = len.checked_sub(begin).filter(|count| *count > 0)?.min(QUERIES);
        let step = band_step::<E>();
        let first = seen_positions(begin, window).start / step * step;
        Some(Self { begin, count, first, keys: begin + count - first, seen: begin + 1 - first, window })
    }

    /// The keys that the block's query `row` sees.
    pub fn visible(&self, row: usize) -> Range<usize> {
        let Range { start, end } = seen_positions(self.begin + row, self.window);
        start - self.first..end - self.first
    }

    /// Row stride of a matrix of scores: what is left of the last panel of all keys of the sequence is written, too.
    pub fn stride<E: Real>(&self, len: usize) -> usize {
        self.keys.next_multiple_of(E::kernels().panel_width()).min(len - self.first)
    }
}
