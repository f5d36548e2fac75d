//! Places in device memory. A device checks that what an operation touches lies inside the buffer.

use crate::error::EngineError;

/// A place in a buffer, to read from.
pub struct View<'a, B> {
    pub buffer: &'a B,
    /// Elements before it.
    pub offset: usize,
}

impl<B> Clone for View<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for View<'_, B> {}

impl<'a, B> View<'a, B> {
    /// The place `offset` elements into `buffer`.
    pub fn at(buffer: &'a B, offset: usize) -> Self {
        Self { buffer, offset }
    }

    /// Rows of `width` elements that follow one another.
    pub fn rows(self, width: usize) -> Matrix<'a, B> {
        Matrix { view: self, row_stride: width, column_stride: 1 }
    }

    /// The transpose of rows of `width` elements that follow one another.
    pub fn columns(self, width: usize) -> Matrix<'a, B> {
        Matrix { view: self, row_stride: 1, column_stride: width }
    }
}

impl<'a, B> From<&'a B> for View<'a, B> {
    fn from(buffer: &'a B) -> Self {
        Self { buffer, offset: 0 }
    }
}

/// A place in a buffer, to write to.
pub struct ViewMut<'a, B> {
    pub buffer: &'a mut B,
    /// Elements before it.
    pub offset: usize,
}

impl<'a, B> ViewMut<'a, B> {
    /// The place `offset` elements into `buffer`.
    pub fn at(buffer: &'a mut B, offset: usize) -> Self {
        Self { buffer, offset }
    }

    /// The same place, lent on.
    pub fn reborrow(&mut self) -> ViewMut<'_, B> {
        ViewMut { buffer: &mut *self.buffer, offset: self.offset }
    }

    /// Rows of `width` elements that follow one another.
    pub fn rows(self, width: usize) -> MatrixMut<'a, B> {
        MatrixMut { view: self, row_stride: width, column_stride: 1 }
    }

    /// The transpose of rows of `width` elements that follow one another.
    pub fn columns(self, width: usize) -> MatrixMut<'a, B> {
        MatrixMut { view: self, row_stride: 1, column_stride: width }
    }
}

impl<'a, B> From<&'a mut B> for ViewMut<'a, B> {
    fn from(buffer: &'a mut B) -> Self {
        Self { buffer, offset: 0 }
    }
}

/// A matrix in a buffer: element (i, j) is `i * row_stride + j * column_stride` after the view's place.
pub struct Matrix<'a, B> {
    pub view: View<'a, B>,
    pub row_stride: usize,
    pub column_stride: usize,
}

/// As [`Matrix`], to write to.
pub struct MatrixMut<'a, B> {
    pub view: ViewMut<'a, B>,
    pub row_stride: usize,
    pub column_stride: usize,
}

/// Elements from the first to the last of a strided matrix.
pub(super) fn extent(rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> usize {
    if rows == 0 || columns == 0 { 0 } else { (rows - 1) * row_stride + (columns - 1) * column_stride + 1 }
}

/// What a device answers where `len` elements from `offset` on reach beyond a buffer of `found`.
pub(super) fn outside(found: usize, offset: usize, len: usize) -> EngineError {
    EngineError::internal(format!("an operation reaches {len} elements from {offset} on; the buffer has {found}"))
}
