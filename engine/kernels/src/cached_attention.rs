//! Launcher of attention over a cache of keys and values.

use crate::attention::Shape;
use crate::error::Result;
use crate::stream::{DevicePointer, Launch, NumberType, Stream, launch};

/// Rows that a block takes together where there are several, and threads of a block; as in `cached_attention.cu`.
const ROWS: usize = 8;
const THREADS: u32 = 256;

/// Sizes of attention of new rows over all positions of a sequence, of which they are the last.
#[derive(Clone, Copy, Debug)]
pub struct CachedAttentionSizes {
    /// At least 1.
    pub rows: usize,
    /// At least `rows`.
    pub positions: usize,
    pub heads: usize,
    pub key_value_heads: usize,
    /// At most [`MAX_HEAD_DIM`](crate::MAX_HEAD_DIM).
    pub head_dim: usize,
    /// As of [`AttentionSizes`](crate::AttentionSizes).
    pub window: Option<usize>,
    pub alibi: bool,
}

/// Addresses. Queries and output `[rows, heads, head_dim]`, keys and values `[positions, key_value_heads, head_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct CachedAttentionArrays {
    pub query: DevicePointer,
    pub key: DevicePointer,
    pub value: DevicePointer,
    pub output: DevicePointer,
}

impl Stream {
    /// Row i is position `positions − rows + i` and sees those before it, within the window; scores scaled by 1/√head_dim.
    ///
    /// # Safety
    /// Arrays have these sizes; the output overlaps none of the others.
    pub unsafe fn cached_attention(
        &self,
        kind: NumberType,
        sizes: CachedAttentionSizes,
        arrays: &CachedAttentionArrays,
    ) -> Result<()> {
        let CachedAttentionSizes { rows, positions, heads, key_value_heads, head_dim, window, alibi } = sizes;
        let CachedAttentionArrays { query, key, value, output } = *arrays;
        let together = if rows == 1 { 1 } else { ROWS };
        let name = format!("cached_attention_{together}_{}", kind.name());
        let grid = [rows.div_ceil(together) as u32, heads as u32, 1];
        let launch = Launch { grid, threads: THREADS, shared_bytes: 0 };
        let shape = Shape::new([heads, key_value_heads, head_dim], window, alibi, positions);
        let (rows, positions) = (rows as i32, positions as i32);
        // SAFETY: the caller's promise; the kernel's parameters in order.
        unsafe { launch!(self, &name, launch, shape, rows, positions, query, key, value, output) }
    }
}
