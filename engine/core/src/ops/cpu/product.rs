//! Matrix products: `c = start + alpha · Σ aᵢ · bᵢ`.
//!
//! The right side is copied into panels as wide as the kernel, so that it is read in order; the left side is read where it lies. Several
//! products with one result (a frozen weight and its low-rank term, layers that share an input) are taken in one pass: their inner
//! dimensions are laid end to end.

use std::ops::Range;

use super::kernel::{Kernels, Segment, Tile};
use super::pool::ThreadPool;
use super::real::Real;
use super::weight::CpuWeight;

/// Longest piece of the inner dimension that is packed at once on one thread: a panel of it stays in a core's second-level cache.
const INNER_BLOCK: usize = 1600;
/// Most summands of one product.
pub(super) const MAX_TERMS: usize = 8;
/// Up to this many rows of the left side, rows of the right side are read where they lie: packing would cost more than it saves.
const UNPACKED_ROWS: usize = 24;
/// Multiply-adds below which a product is not worth sharing among threads.
const SHARED_WORK: usize = 1 << 18;

/// The right side of one summand, `[k, n]`.
#[derive(Clone, Copy)]
pub(super) enum Right<'a, E> {
    /// Element (k, n) at `start + k * row_stride + n * column_stride`.
    Strided { start: *const E, row_stride: usize, column_stride: usize },
    /// The transpose of a weight's rows.
    Transposed(&'a CpuWeight),
}

/// One summand.
#[derive(Clone, Copy)]
pub(super) struct Term<'a, E> {
    pub left: Segment<E>,
    pub right: Right<'a, E>,
}

/// A product. `terms` hold the inner dimensions.
pub(super) struct Product<'a, E> {
    pub m: usize,
    pub n: usize,
    pub alpha: E,
    pub terms: &'a [Term<'a, E>],
    pub c: *mut E,
    pub row_stride: usize,
    pub column_stride: usize,
    /// What the result starts from; null: zero. May be `c` itself.
    pub start: *const E,
    pub start_row_stride: usize,
    pub start_column_stride: usize,
}

// SAFETY: the pointers are used by threads of one product only, which write disjoint tiles.
unsafe impl<E> Sync for Product<'_, E> {}

/// Panels of one product and dequantized rows; reused.
#[derive(Default)]
pub(super) struct PackScratch<E> {
    panel: Vec<E>,
    /// Dequantized rows of a weight.
    pub(super) rows: Vec<E>,
    spare: Vec<Vec<E>>,
}

/// The first `len` numbers of a vector from a cache line's start on; it grows where it is too short. The kernels read whole registers, and
/// one that straddles two lines costs two reads.
pub(super) fn aligned<E: Real>(vector: &mut Vec<E>, len: usize) -> &mut [E] {
    const LINE_BYTES: usize = 64;
    let spare = LINE_BYTES / size_of::<E>();
    if vector.len() < len + spare {
        vector.resize(len + spare, E::ZERO);
    }
    let start = vector.as_ptr().align_offset(LINE_BYTES).min(spare);
    &mut vector[start..start + len]
}

impl<E: Real> PackScratch<E> {
    /// A vector of this length with arbitrary numbers in it.
    pub fn take(&mut self, len: usize) -> Vec<E> {
        let mut vector = self.spare.pop().unwrap_or_default();
        vector.resize(len, E::ZERO);
        vector
    }

    /// Keeps a vector for the next [`Self::take`].
    pub fn give(&mut self, vector: Vec<E>) {
        self.spare.push(vector);
    }
}

impl<E: Real> Product<'_, E> {
    pub(super) fn inner(&self) -> usize {
        self.terms.iter().map(|term| term.left.k).sum()
    }

    /// Computes on the calling thread.
    ///
    /// # Safety
    /// All pointers and strides stay inside memory that nothing else writes.
    pub unsafe fn run_here(&self, scratch: &mut PackScratch<E>) {
        let width = E::kernels().panel_width();
        for panel in 0..self.n.div_ceil(width) {
            // SAFETY: the caller's promise.
            unsafe { self.panel(panel, 0..self.m, scratch) }
        }
    }

    /// Computes on all threads of a pool; a long left side goes by [`Self::run_blocked`], with the right side packed once for all.
    ///
    /// # Safety
    /// As [`Self::run_here`].
    pub unsafe fn run(&self, pool: &mut ThreadPool, scratch: &ScratchPool<E>, packed: &mut Vec<E>) {
        // SAFETY: the caller's promise, here and below; pieces write different tiles.
        unsafe {
            if self.m * self.n * self.inner() < SHARED_WORK {
                scratch.with(|scratch| self.run_here(scratch));
            } else if self.m > UNPACKED_ROWS {
                self.run_blocked(pool, scratch, packed);
            } else {
                let panels = self.n.div_ceil(E::kernels().panel_width());
                pool.run(panels, &|panel| scratch.with(|scratch| self.panel(panel, 0..self.m, scratch)));
            }
        }
    }

    /// One panel's columns of `rows`.
    unsafe fn panel(&self, panel: usize, rows: Range<usize>, scratch: &mut PackScratch<E>) {
        let kernels = E::kernels();
        let (first, columns, stride) = kernels.panel(self.n, panel);
        let vectors = stride / kernels.width;
        let inner = self.inner();
        let mut start = (self.start, self.start_row_stride, self.start_column_stride);
        let mut done = 0;
        loop {
            let block = (inner - done).min(INNER_BLOCK);
            let mut segments = [Segment { a: std::ptr::null(), row_stride: 0, column_stride: 0, k: 0 }; MAX_TERMS];
            let count = self.segments(done..done + block, &mut segments);
            // SAFETY: the caller's promise.
            unsafe {
                let (b, b_stride) = match self.unpacked(done, rows.len(), first, columns, kernels) {
                    Some(place) if count <= 1 => place,
                    _ => {
                        let PackScratch { panel, rows, .. } = scratch;
                        let panel = aligned(panel, block * stride);
                        self.pack(done..done + block, first, columns, stride, panel, rows);
                        (panel.as_ptr(), stride)
                    }
                };
                self.rows(kernels, vectors, &segments[..count], (b, b_stride), (first, columns), rows.clone(), start);
            }
            done += block;
            if done == inner {
                return;
            }
            start = (self.c, self.row_stride, self.column_stride);
        }
    }

    /// One panel's columns of `rows`, over the inner dimension that `segments` and `b` cover.
    ///
    /// # Safety
    /// As [`Self::run_here`].
    #[expect(clippy::too_many_arguments, reason = "the loop's state, taken apart once")]
    pub(super) unsafe fn rows(
        &self,
        kernels: &Kernels<E>,
        vectors: usize,
        segments: &[Segment<E>],
        (b, b_stride): (*const E, usize),
        (first, columns): (usize, usize),
        rows: Range<usize>,
        (start, start_row_stride, start_column_stride): (*const E, usize, usize),
    ) {
        let mut row = rows.start;
        let mut moved = [segments[0]; MAX_TERMS];
        for (height, by_vectors) in kernels.by_rows {
            let kernel = by_vectors[vectors - 1];
            while rows.end - row >= *height {
                for (moved, segment) in moved.iter_mut().zip(segments) {
                    *moved = Segment { a: segment.a.wrapping_add(row * segment.row_stride), ..*segment };
                }
                let offset = row * self.row_stride + first * self.column_stride;
                let start_offset = row * start_row_stride + first * start_column_stride;
                let tile = Tile {
                    c: self.c.wrapping_add(offset),
                    row_stride: self.row_stride,
                    column_stride: self.column_stride,
                    columns,
                    start: if start.is_null() { start } else { start.wrapping_add(start_offset) },
                    start_row_stride,
                    start_column_stride,
                    alpha: self.alpha,
                };
                // SAFETY: the caller's promise; the table was chosen for this processor.
                unsafe { kernel(&moved[..segments.len()], b, b_stride, &tile) };
                row += height;
            }
        }
    }

    /// The parts of the left sides that make up a range of the inner dimension.
    pub(super) fn segments(&self, range: Range<usize>, out: &mut [Segment<E>; MAX_TERMS]) -> usize {
        let (mut before, mut count) = (0, 0);
        for term in self.terms {
            let begin = range.start.max(before);
            let end = range.end.min(before + term.left.k);
            if begin < end {
                let a = term.left.a.wrapping_add((begin - before) * term.left.column_stride);
                out[count] = Segment { a, k: end - begin, ..term.left };
                count += 1;
            }
            before += term.left.k;
        }
        count.max(1)
    }

    /// Where a full panel can be read without packing.
    fn unpacked(
        &self,
        done: usize,
        rows: usize,
        first: usize,
        columns: usize,
        kernels: &Kernels<E>,
    ) -> Option<(*const E, usize)> {
        match (self.terms, rows <= UNPACKED_ROWS && columns.is_multiple_of(kernels.width)) {
            ([Term { right: Right::Strided { start, row_stride, column_stride: 1 }, .. }], true) => {
                Some((start.wrapping_add(done * row_stride + first), *row_stride))
            }
            _ => None,
        }
    }

    /// Copies a range of the right sides' rows into a panel of rows of `stride`; columns beyond the last are zero. `rows` is scratch.
    ///
    /// # Safety
    /// As [`Self::run_here`].
    pub(super) unsafe fn pack(
        &self,
        range: Range<usize>,
        first: usize,
        columns: usize,
        stride: usize,
        panel: &mut [E],
        rows: &mut Vec<E>,
    ) {
        let (mut before, mut at) = (0, 0);
        for term in self.terms {
            let begin = range.start.max(before);
            let end = range.end.min(before + term.left.k);
            if begin < end {
                let part = begin - before..end - before;
                let out = &mut panel[at * stride..(at + part.len()) * stride];
                at += part.len();
                // SAFETY: the caller's promise.
                unsafe { term.pack(part, first, columns, stride, out, rows) };
            }
            before += term.left.k;
        }
    }
}

impl<E: Real> Term<'_, E> {
    /// Copies a range of the right side's rows into a panel of rows of `stride`; columns beyond the last are zero. `rows` is scratch.
    ///
    /// # Safety
    /// As [`Product::run_here`].
    pub(super) unsafe fn pack(
        &self,
        range: Range<usize>,
        first: usize,
        columns: usize,
        stride: usize,
        out: &mut [E],
        rows: &mut Vec<E>,
    ) {
        match self.right {
            Right::Strided { start, row_stride, column_stride: 1 } => {
                for (k, out) in range.zip(out.chunks_exact_mut(stride)) {
                    // SAFETY: inside the right side by the caller's promise.
                    let row = unsafe { std::slice::from_raw_parts(start.add(k * row_stride + first), columns) };
                    out[..columns].copy_from_slice(row);
                    out[columns..].fill(E::ZERO);
                }
            }
            Right::Strided { start, row_stride, column_stride } => {
                let start = start.wrapping_add(range.start * row_stride + first * column_stride);
                // SAFETY: as above.
                unsafe { transpose(start, row_stride, column_stride, columns, out, stride) };
            }
            Right::Transposed(weight) => {
                let width = weight.columns();
                let start = if let Some(elements) = weight.elements::<E>() {
                    elements[first * width..(first + columns) * width].as_ptr()
                } else {
                    rows.resize(columns * width, E::ZERO);
                    weight.dequantize_rows(first, rows);
                    rows.as_ptr()
                };
                // SAFETY: the rows were sliced above.
                unsafe { transpose(start.add(range.start), 1, width, columns, out, stride) };
            }
        }
    }
}

/// `out[k * stride + j] = from[k * row_stride + j * column_stride]` for every k of `out`; zero from `columns` on.
unsafe fn transpose<E: Real>(
    from: *const E,
    row_stride: usize,
    column_stride: usize,
    columns: usize,
    out: &mut [E],
    stride: usize,
) {
    /// Rows taken at a time: their source lines stay in the first-level cache while all columns pass.
    const ROWS: usize = 16;
    for (block, out) in out.chunks_mut(ROWS * stride).enumerate() {
        for j in 0..stride {
            for (i, out) in out.chunks_exact_mut(stride).enumerate() {
                // SAFETY: the caller's promise.
                out[j] = if j < columns {
                    unsafe { *from.add((block * ROWS + i) * row_stride + j * column_stride) }
                } else {
                    E::ZERO
                };
            }
        }
    }
}

/// Scratch of the threads of one device.
pub(super) struct ScratchPool<E>(std::sync::Mutex<Vec<PackScratch<E>>>);

impl<E: Real> ScratchPool<E> {
    pub fn new() -> Self {
        Self(std::sync::Mutex::new(Vec::new()))
    }

    /// Lends a scratch to `work`.
    pub fn with<R>(&self, work: impl FnOnce(&mut PackScratch<E>) -> R) -> R {
        let lock = || self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut scratch = lock().pop().unwrap_or_default();
        let result = work(&mut scratch);
        lock().push(scratch);
        result
    }
}
