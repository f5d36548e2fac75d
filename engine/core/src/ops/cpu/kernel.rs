//! The innermost part of a matrix product: a tile of the result held in registers while rows of `b` pass by.

use super::lanes::{Lanes, Portable};
use super::real::Real;

/// Columns of a panel in registers; see [`Kernels::panel_width`].
pub(super) const MAX_VECTORS: usize = 3;
/// Largest tile of any kernel, in numbers: 8 rows of 3 registers of 16.
const MAX_TILE: usize = 8 * MAX_VECTORS * 16;

/// `k` columns of the left matrix: element (i, k) at `a + i * row_stride + k * column_stride`.
#[derive(Clone, Copy)]
pub struct Segment<E> {
    pub a: *const E,
    pub row_stride: usize,
    pub column_stride: usize,
    pub k: usize,
}

/// Where a tile of the result goes and what it starts from.
pub struct Tile<E> {
    pub c: *mut E,
    pub row_stride: usize,
    pub column_stride: usize,
    /// Numbers of a row to write; at most the kernel's width.
    pub columns: usize,
    /// Added to the product; null: nothing. Strides of its own (a row stride of 0 adds one vector to all rows).
    pub start: *const E,
    pub start_row_stride: usize,
    pub start_column_stride: usize,
    pub alpha: E,
}

/// `tile = start + alpha · Σ segments · b`. Row k of `b` is `b + k * b_stride`, over all segments in sequence.
///
/// # Safety
/// Pointers and strides must stay inside readable (for `c` writable) memory; `b` is read in whole registers. The processor has the
/// instructions of the table that the kernel came from.
pub type Kernel<E> = unsafe fn(segments: &[Segment<E>], b: *const E, b_stride: usize, tile: &Tile<E>);

/// The kernels of one instruction set.
pub struct Kernels<E: 'static> {
    pub name: &'static str,
    /// Numbers in a register.
    pub width: usize,
    /// Kernels by rows: for each height, by number of registers a row, from 1. Heights descend to 1.
    pub by_rows: &'static [(usize, [Kernel<E>; MAX_VECTORS])],
}

impl<E> Kernels<E> {
    /// Columns that one kernel call can take.
    pub fn panel_width(&self) -> usize {
        MAX_VECTORS * self.width
    }

    /// Of panel `index` of a right side with so many columns: `(first column, columns, row stride when packed)`.
    pub fn panel(&self, columns: usize, index: usize) -> (usize, usize, usize) {
        let first = index * self.panel_width();
        let here = (columns - first).min(self.panel_width());
        (first, here, here.next_multiple_of(self.width))
    }
}

#[inline(always)]
unsafe fn tile<L: Lanes, const ROWS: usize, const VECTORS: usize>(
    segments: &[Segment<L::Elem>],
    mut b: *const L::Elem,
    b_stride: usize,
    tile: &Tile<L::Elem>,
) where
    L::Elem: Real,
{
    let mut sums = [[L::zero(); VECTORS]; ROWS];
    for segment in segments {
        let mut a = segment.a;
        for _ in 0..segment.k {
            // SAFETY: inside `b` and the segment by the caller's promise.
            unsafe {
                let row: [L; VECTORS] = std::array::from_fn(|v| L::load(b.add(v * L::WIDTH)));
                for (i, sums) in sums.iter_mut().enumerate() {
                    let left = L::splat(a.add(i * segment.row_stride));
                    for (sum, right) in sums.iter_mut().zip(row) {
                        *sum = sum.add_product(left, right);
                    }
                }
                a = a.wrapping_add(segment.column_stride);
                b = b.wrapping_add(b_stride);
            }
        }
    }
    let one = tile.alpha == L::Elem::ONE;
    let direct = tile.column_stride == 1
        && one
        && tile.columns == VECTORS * L::WIDTH
        && (tile.start.is_null() || tile.start_column_stride == 1);
    // SAFETY: inside `c` and `start` by the caller's promise.
    unsafe {
        if direct {
            for (i, sums) in sums.iter().enumerate() {
                for (v, sum) in sums.iter().enumerate() {
                    let mut sum = *sum;
                    if !tile.start.is_null() {
                        let start = L::load(tile.start.add(i * tile.start_row_stride + v * L::WIDTH));
                        sum = start.add_product(sum, L::splat(&L::Elem::ONE));
                    }
                    sum.store(tile.c.add(i * tile.row_stride + v * L::WIDTH));
                }
            }
            return;
        }
        let mut spilled = [L::Elem::ZERO; MAX_TILE];
        for (i, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                sum.store(spilled.as_mut_ptr().add((i * VECTORS + v) * L::WIDTH));
            }
        }
        for i in 0..ROWS {
            for j in 0..tile.columns {
                let mut sum = spilled[i * VECTORS * L::WIDTH + j] * tile.alpha;
                if !tile.start.is_null() {
                    sum += *tile.start.add(i * tile.start_row_stride + j * tile.start_column_stride);
                }
                *tile.c.add(i * tile.row_stride + j * tile.column_stride) = sum;
            }
        }
    }
}

macro_rules! kernel_table {
    ($table:ident, $name:literal, $lanes:ty, $element:ty, [$($rows:literal),*] $(, #[$feature:meta])?) => {
        pub(super) static $table: Kernels<$element> = {
            $(#[$feature])?
            unsafe fn compiled<const ROWS: usize, const VECTORS: usize>(
                segments: &[Segment<$element>],
                b: *const $element,
                b_stride: usize,
                place: &Tile<$element>,
            ) {
                // SAFETY: the caller's promise.
                unsafe { tile::<$lanes, ROWS, VECTORS>(segments, b, b_stride, place) }
            }
            Kernels {
                name: $name,
                width: <$lanes as Lanes>::WIDTH,
                by_rows: &[$(($rows, [compiled::<$rows, 1>, compiled::<$rows, 2>, compiled::<$rows, 3>])),*],
            }
        };
    };
}

kernel_table!(PORTABLE_F32, "scalar", Portable<f32>, f32, [4, 2, 1]);
kernel_table!(PORTABLE_F64, "scalar", Portable<f64>, f64, [4, 2, 1]);
#[cfg(target_arch = "x86_64")]
kernel_table!(AVX2, "avx2", super::lanes::x86::Avx2, f32, [4, 2, 1], #[target_feature(enable = "avx2,fma")]);
#[cfg(target_arch = "x86_64")]
kernel_table!(AVX512, "avx512", super::lanes::x86::Avx512, f32, [8, 4, 2, 1], #[target_feature(enable = "avx512f")]);

/// The best f32 kernels that this processor can run.
pub(super) fn f32_kernels() -> &'static Kernels<f32> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        return &AVX512;
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        return &AVX2;
    }
    &PORTABLE_F32
}
