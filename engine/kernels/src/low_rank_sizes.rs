//! Which sizes the low-rank halves' kernels take, and what their gradients need in between: known without a GPU's memory.

use crate::stream::NumberType;

/// Largest rank, and columns that large operands are a multiple of.
pub(crate) const MAX_RANK: usize = 32;
pub(crate) const RUN: usize = 8;
/// As in `low_rank.cu`.
pub(crate) const TILE_ROWS: usize = 64;
pub(crate) const BLOCK_COLUMNS: usize = 256;
/// Layers whose gradients are taken together.
pub(crate) const MAX_LAYERS: usize = 3;

/// Steps of eight that a kernel takes for a rank: 1, 2 or 4.
pub(crate) fn steps(rank: usize) -> usize {
    rank.div_ceil(8).next_power_of_two()
}

/// Sizes of [`LowRankGradients`](crate::LowRankGradients): what its scratch follows from.
#[derive(Clone, Copy, Debug)]
pub struct LowRankSizes<'a> {
    pub rows: usize,
    pub rank: usize,
    /// Of each layer.
    pub out_features: &'a [usize],
}

impl LowRankSizes<'_> {
    /// As [`LowRankGradients::fits`](crate::LowRankGradients::fits), where all operands lie at multiples of 16 bytes.
    pub fn fit(&self, kind: NumberType) -> bool {
        let counts = (1..=MAX_RANK).contains(&self.rank) && (1..=MAX_LAYERS).contains(&self.out_features.len());
        let whole = self.out_features.iter().all(|width| width.is_multiple_of(RUN));
        kind != NumberType::F32 && self.rows > 0 && counts && whole
    }

    pub(crate) fn width(&self) -> usize {
        8 * steps(self.rank)
    }

    /// Rows of a block.
    pub(crate) fn block_rows(&self) -> usize {
        TILE_ROWS * if steps(self.rank) == 4 { 2 } else { 4 }
    }

    /// Numbers of a layer's sums over columns and over rows.
    pub(crate) fn sums(&self, out_features: usize) -> [usize; 2] {
        let of_columns = out_features.div_ceil(BLOCK_COLUMNS) * self.rows * self.width();
        let of_rows = self.rows.div_ceil(self.block_rows()) * out_features * self.width();
        [of_columns, of_rows]
    }

    /// Bytes of scratch that [`Stream::low_rank_gradients`](crate::Stream::low_rank_gradients) takes.
    pub fn scratch_bytes(&self) -> usize {
        self.out_features.iter().flat_map(|width| self.sums(*width)).sum::<usize>() * size_of::<f32>()
    }
}
