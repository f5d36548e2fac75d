//! Large products on many threads: the right side is packed once, then blocks of the left side that stay in a core's cache pass by it.
//!
//! Without the blocks a long left side comes from the shared cache once for every panel, which takes as long as the arithmetic where a
//! core does 64 multiply-adds a cycle.

use std::ops::Range;

use super::kernel::Segment;
use super::parallel::Disjoint;
use super::pool::ThreadPool;
use super::product::{MAX_TERMS, Product, ScratchPool, aligned};
use super::real::Real;

/// Numbers of the right side that are packed at once (16 MiB of f32), where a panel is not longer by itself.
const PACKED_NUMBERS: usize = 1 << 22;
/// Longest piece of the inner dimension between two visits of the result.
const INNER_BLOCK: usize = 800;
/// Rows of a block: with [`INNER_BLOCK`] 400 KiB of f32, beside a panel of 150 KiB.
const BLOCK_ROWS: usize = 128;
/// Pieces of work for each thread, so that threads finish together.
const PIECES_PER_THREAD: usize = 3;

impl<E: Real> Product<'_, E> {
    /// Computes on all threads of a pool. `packed` is scratch, which grows to the largest use.
    ///
    /// # Safety
    /// As [`Self::run_here`].
    pub(super) unsafe fn run_blocked(&self, pool: &mut ThreadPool, scratch: &ScratchPool<E>, packed: &mut Vec<E>) {
        let width = E::kernels().panel_width();
        let panels = self.n.div_ceil(width);
        let panel_len = self.inner() * width;
        let at_once = (PACKED_NUMBERS / panel_len).clamp(1, panels);
        let packed = aligned(packed, at_once * panel_len);
        for first in (0..panels).step_by(at_once) {
            let group = first..(first + at_once).min(panels);
            {
                let packed = Disjoint::new(&mut *packed);
                pool.run(group.len(), &|index| {
                    // SAFETY: this piece's panel; the rest is the caller's promise.
                    scratch.with(|scratch| unsafe {
                        let panel = packed.range(index * panel_len..(index + 1) * panel_len);
                        let (first, columns, stride) = E::kernels().panel(self.n, group.start + index);
                        let len = self.inner() * stride;
                        self.pack(0..self.inner(), first, columns, stride, &mut panel[..len], &mut scratch.rows);
                    });
                });
            }
            let blocks = self.m.div_ceil(BLOCK_ROWS);
            let rows = self.m.div_ceil(blocks).next_multiple_of(8);
            let blocks = self.m.div_ceil(rows);
            let chunks = (PIECES_PER_THREAD * pool.threads()).div_ceil(blocks).clamp(1, group.len());
            let chunk = group.len().div_ceil(chunks);
            let chunks = group.len().div_ceil(chunk);
            let packed = &*packed;
            pool.run(blocks * chunks, &|piece| {
                let (block, begin) = (piece / chunks * rows, group.start + piece % chunks * chunk);
                let panels = begin..(begin + chunk).min(group.end);
                let packed = &packed[(begin - group.start) * panel_len..];
                // SAFETY: pieces write different tiles; the rest is the caller's promise.
                unsafe { self.block(block..(block + rows).min(self.m), panels, packed, panel_len) };
            });
        }
    }

    /// Some rows of the columns of some panels, which lie in `packed` one after another.
    unsafe fn block(&self, rows: Range<usize>, panels: Range<usize>, packed: &[E], panel_len: usize) {
        let kernels = E::kernels();
        let inner = self.inner();
        let length = inner.div_ceil(inner.div_ceil(INNER_BLOCK));
        for done in (0..inner).step_by(length) {
            let part = done..(done + length).min(inner);
            let mut segments = [Segment { a: std::ptr::null(), row_stride: 0, column_stride: 0, k: 0 }; MAX_TERMS];
            let count = self.segments(part, &mut segments);
            let start = match done {
                0 => (self.start, self.start_row_stride, self.start_column_stride),
                _ => (self.c.cast_const(), self.row_stride, self.column_stride),
            };
            for (index, panel) in panels.clone().enumerate() {
                let (first, columns, stride) = kernels.panel(self.n, panel);
                let b = packed[index * panel_len + done * stride..].as_ptr();
                let vectors = stride / kernels.width;
                // SAFETY: the caller's promise.
                unsafe {
                    self.rows(kernels, vectors, &segments[..count], (b, stride), (first, columns), rows.clone(), start);
                }
            }
        }
    }
}
