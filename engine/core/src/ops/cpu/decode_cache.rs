//! Keys and values of one sequence, grown in blocks of positions.

use std::ops::Range;

use crate::config::ModelConfig;

/// Positions in one block.
pub(super) const BLOCK_POSITIONS: usize = 64;

/// Keys and values of one layer. A block is `[2 (key, value), num_key_value_heads, BLOCK_POSITIONS, head_dim]`, keys rotated.
type LayerBlocks = Vec<Box<[f32]>>;

/// The cache of one sequence; owned by its session, so that dropping the session frees it.
pub struct KvCache {
    layers: Vec<LayerBlocks>,
    heads: usize,
    head_dim: usize,
    length: usize,
}

impl KvCache {
    /// An empty cache; memory comes as positions are added.
    pub fn new(config: &ModelConfig) -> Self {
        let layers = vec![Vec::new(); config.num_hidden_layers];
        Self { layers, heads: config.num_key_value_heads, head_dim: config.head_dim, length: 0 }
    }

    /// Positions whose keys and values are in every layer.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether no position is in yet.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Counts positions that have been stored in every layer.
    pub(super) fn advance(&mut self, positions: usize) {
        self.length += positions;
    }

    fn block_elements(&self) -> usize {
        2 * self.heads * BLOCK_POSITIONS * self.head_dim
    }

    /// Stores key and value of one position, each `[num_key_value_heads, head_dim]`, in one layer.
    pub(super) fn store(&mut self, layer: usize, position: usize, key: &[f32], value: &[f32]) {
        let (heads, head_dim, elements) = (self.heads, self.head_dim, self.block_elements());
        let blocks = &mut self.layers[layer];
        while blocks.len() * BLOCK_POSITIONS <= position {
            blocks.push(vec![0.0; elements].into_boxed_slice());
        }
        let block = &mut blocks[position / BLOCK_POSITIONS];
        for (part, source) in [key, value].into_iter().enumerate() {
            for (head, source) in source.chunks_exact(head_dim).enumerate() {
                let start = ((part * heads + head) * BLOCK_POSITIONS + position % BLOCK_POSITIONS) * head_dim;
                block[start..start + head_dim].copy_from_slice(source);
            }
        }
    }

    /// Keys and values of a range of positions for one head, block by block: `([n, head_dim], [n, head_dim])`.
    pub(super) fn head_blocks(
        &self,
        layer: usize,
        head: usize,
        positions: Range<usize>,
    ) -> impl Iterator<Item = (&[f32], &[f32])> + '_ {
        let plane = BLOCK_POSITIONS * self.head_dim;
        let first = positions.start / BLOCK_POSITIONS;
        self.layers[layer].iter().enumerate().skip(first).map_while(move |(index, block)| {
            let begin = index * BLOCK_POSITIONS;
            let end = positions.end.checked_sub(begin).filter(|end| *end > 0)?.min(BLOCK_POSITIONS);
            let elements = positions.start.saturating_sub(begin) * self.head_dim..end * self.head_dim;
            let (keys, values) = (&block[head * plane..], &block[(self.heads + head) * plane..]);
            Some((&keys[elements.clone()], &values[elements]))
        })
    }
}
