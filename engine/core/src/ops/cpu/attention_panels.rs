//! The matrix products of attention: causal ones, which leave out what the mask hides, over keys and values packed once for all queries.

use std::ops::Range;

use super::kernel::Segment;
use super::product::{Product, Right, Term};
use super::real::Real;

/// Rows of a product that share one range of the inner dimension.
const GROUP: usize = 8;

/// Where a band of keys may begin: multiples of this, at which a panel begins and a group of keys, too.
pub(super) fn band_step<E: Real>() -> usize {
    let width = E::kernels().panel_width();
    (width..).step_by(width).find(|step| step.is_multiple_of(GROUP)).unwrap_or(width)
}

/// One head's rows inside rows of several heads.
#[derive(Clone, Copy)]
pub(super) struct Rows<E> {
    pub start: *const E,
    pub stride: usize,
}

impl<E> Rows<E> {
    /// As a left side with an inner dimension of `k`.
    fn left(self, k: usize) -> Segment<E> {
        Segment { a: self.start, row_stride: self.stride, column_stride: 1, k }
    }
}

/// A right side `[inner, columns]` in panels, one after another, each `[inner, stride]`; its rows before `first` are left out.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a, E> {
    numbers: &'a [E],
    inner: usize,
    first: usize,
    columns: usize,
}

/// Numbers of [`Panels`].
pub(super) fn panels_len<E: Real>(inner: usize, columns: usize) -> usize {
    inner * columns.next_multiple_of(E::kernels().width)
}

impl<'a, E: Real> Panels<'a, E> {
    /// What [`pack`] left in `numbers`.
    pub fn new(numbers: &'a [E], inner: usize, columns: usize) -> Self {
        Self { numbers, inner, first: 0, columns }
    }

    /// Without the rows before `first`.
    pub fn rows_from(self, first: usize) -> Self {
        Self { first, ..self }
    }

    /// Without the columns before `first`, where a panel begins.
    pub fn columns_from(self, first: usize) -> Self {
        Self { numbers: &self.numbers[first * self.inner..], columns: self.columns - first, ..self }
    }

    /// Rows that are not left out.
    fn rows(self) -> usize {
        self.inner - self.first
    }

    /// `(first column, columns, row stride, numbers)` of each panel.
    fn each(self) -> impl Iterator<Item = (usize, usize, usize, &'a [E])> {
        panels::<E>(self.columns).map(move |(first, columns, stride)| {
            let panel = &self.numbers[first * self.inner..first * self.inner + self.inner * stride];
            (first, columns, stride, &panel[self.first * stride..])
        })
    }
}

/// All panels of so many columns, as `Kernels::panel` gives them.
fn panels<E: Real>(columns: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let kernels = E::kernels();
    (0..columns.div_ceil(kernels.panel_width())).map(move |index| kernels.panel(columns, index))
}

/// Packs `[inner, columns]`, element (k, n) at `k * row_stride + n * column_stride`, into [`Panels`].
///
/// # Safety
/// All these elements can be read.
pub(super) unsafe fn pack<E: Real>(
    start: *const E,
    [row_stride, column_stride]: [usize; 2],
    [inner, columns]: [usize; 2],
    out: &mut [E],
) {
    let left = Segment { a: std::ptr::null(), row_stride: 0, column_stride: 0, k: inner };
    let term = Term { left, right: Right::Strided { start, row_stride, column_stride } };
    for (first, count, stride) in panels::<E>(columns) {
        let out = &mut out[first * inner..first * inner + inner * stride];
        // SAFETY: the caller's promise; a panel needs no scratch where its side is no weight.
        unsafe { term.pack(0..inner, first, count, stride, out, &mut Vec::new()) };
    }
}

/// A result and its row stride.
pub(super) type Place<E> = (*mut E, usize);

fn product<E: Real>((c, row_stride): Place<E>, columns: usize) -> Product<'static, E> {
    Product {
        m: 0,
        n: columns,
        alpha: E::ONE,
        terms: &[],
        c,
        row_stride,
        column_stride: 1,
        start: std::ptr::null(),
        start_row_stride: row_stride,
        start_column_stride: 1,
    }
}

/// `c [rows, columns] = left [rows, head_dim] · right`, for queries of which the first sees `seen` keys, one more than whole groups, and each
/// next one more. What all queries of a panel's keys come before is left as it is.
///
/// # Safety
/// Left side and result are whole, and nothing else writes the result.
pub(super) unsafe fn scores<E: Real>(rows: usize, seen: usize, left: Rows<E>, right: Panels<'_, E>, c: Place<E>) {
    let (kernels, product) = (E::kernels(), product(c, right.columns));
    let segment = [left.left(right.rows())];
    for (first, columns, stride, numbers) in right.each() {
        // Row i sees keys below `seen + i`.
        let from = (first + 1).saturating_sub(seen) / GROUP * GROUP;
        let (b, vectors) = ((numbers.as_ptr(), stride), stride / kernels.width);
        let start = (std::ptr::null(), 0, 1);
        // SAFETY: the caller's promise.
        unsafe { product.rows(kernels, vectors, &segment, b, (first, columns), from.min(rows)..rows, start) };
    }
}

/// Clears what [`weighted`] and [`weighted_by_key`] read of keys that row `row` does not see: those before `visible` and those after, which
/// ends at `seen + row`.
pub(super) fn hide<E: Real>(row: usize, visible: &Range<usize>, numbers: &mut [E]) {
    let read = (visible.end - 1 - row % GROUP + GROUP).min(numbers.len());
    numbers[..visible.start].fill(E::ZERO);
    numbers[visible.end.min(read)..read].fill(E::ZERO);
}

/// `c [rows, columns] = left [rows, keys] · right`, where row i of the left side has `seen + i` keys, and zeros after [`hide`].
///
/// # Safety
/// As [`scores`].
pub(super) unsafe fn weighted<E: Real>(rows: usize, seen: usize, left: Rows<E>, right: Panels<'_, E>, c: Place<E>) {
    let (kernels, product) = (E::kernels(), product(c, right.columns));
    for (first, columns, stride, numbers) in right.each() {
        let (b, vectors) = ((numbers.as_ptr(), stride), stride / kernels.width);
        for row in (0..rows).step_by(GROUP) {
            let group = row..(row + GROUP).min(rows);
            let segment = [left.left((seen - 1 + row + GROUP).min(right.rows()))];
            let start = (std::ptr::null(), 0, 1);
            // SAFETY: the caller's promise.
            unsafe { product.rows(kernels, vectors, &segment, b, (first, columns), group, start) };
        }
    }
}

/// `c [keys, columns] (+)= leftᵀ · right`, for `left [rows, keys]` as in [`weighted`] and `right [rows, columns]`.
///
/// # Safety
/// As [`scores`].
pub(super) unsafe fn weighted_by_key<E: Real>(
    keys: usize,
    seen: usize,
    left: Rows<E>,
    right: Panels<'_, E>,
    c: Place<E>,
    accumulate: bool,
) {
    let (kernels, product) = (E::kernels(), product(c, right.columns));
    let start = if accumulate { (c.0.cast_const(), c.1, 1) } else { (std::ptr::null(), 0, 1) };
    for (first, columns, stride, numbers) in right.each() {
        let vectors = stride / kernels.width;
        let mut key = 0;
        while key < keys {
            // Keys below `seen` are seen by every row: all at once. The others by groups, each from the first row that sees one of it.
            let all = (seen / GROUP * GROUP).min(keys);
            let group = if key < all { 0..all } else { key..(key + GROUP).min(keys) };
            let from = if key < all { 0 } else { (key + 1).saturating_sub(seen) / GROUP * GROUP };
            let segment = [Segment {
                a: left.start.wrapping_add(from * left.stride),
                row_stride: 1,
                column_stride: left.stride,
                k: right.rows() - from,
            }];
            let b = (numbers[from * stride..].as_ptr(), stride);
            key = group.end;
            // SAFETY: the caller's promise.
            unsafe { product.rows(kernels, vectors, &segment, b, (first, columns), group, start) };
        }
    }
}
