//! Memory of a micro-batch: what the forward pass leaves for the backward pass, and what both use in passing. Made once, reused.

use super::parked::{ParkedActivations, parked_bytes};
use super::streams::{Keep, StreamPlaces, Streams, stream_bytes};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::lora::LoraLayout;
use crate::ops::{MemoryPrices, Ops, PlacedBytes};

/// Queries or keys before the norm of their heads.
pub struct UnnormedHeads<O: Ops> {
    /// `[rows, heads * head_dim]`
    pub heads: O::Buffer,
    /// `[rows, heads]`: reciprocal RMS of each head.
    pub factors: O::Buffer,
}

impl<O: Ops> UnnormedHeads<O> {
    fn new(ops: &O, config: &ModelConfig, rows: usize, heads: usize) -> Result<Self> {
        let numbers = ops.allocate_activations(rows * heads * config.head_dim)?;
        Ok(Self { heads: numbers, factors: ops.allocate(rows * heads)? })
    }
}

/// Bytes of [`UnnormedHeads::new`] for queries and keys.
fn unnormed_bytes(prices: &dyn MemoryPrices, config: &ModelConfig, rows: usize) -> u64 {
    let heads = [config.num_attention_heads, config.num_key_value_heads].map(|heads| rows * heads);
    heads.into_iter().map(|heads| prices.activations(heads * config.head_dim) + prices.buffer(heads)).sum()
}

/// What a block leaves for its backward pass, besides its input. Rows are tokens; in the last block, those of `middle`, its factors, `gate` and
/// `up` are the rows that it goes on with after attention: see `selected_rows.rs`.
pub struct LayerActivations<O: Ops> {
    /// After rope: `[rows, query_size]` and `[rows, key_value_size]`.
    pub query: O::Buffer,
    pub key: O::Buffer,
    pub value: O::Buffer,
    /// Queries and keys, where the architecture norms their heads.
    pub unnormed: Option<[UnnormedHeads<O>; 2]>,
    /// `[rows, query_size]`
    pub attention: O::Buffer,
    /// `[rows, num_attention_heads]`
    pub log_sum_exp: O::Buffer,
    /// `[rows, hidden_size]`: the residual stream between attention and MLP.
    pub middle: O::Buffer,
    /// `[rows]`: reciprocal RMS of the block's input and of `middle`.
    pub input_factors: O::Buffer,
    pub middle_factors: O::Buffer,
    /// `[rows, intermediate_size]`
    pub gate: O::Buffer,
    pub up: O::Buffer,
}

impl<O: Ops> LayerActivations<O> {
    /// Room for `rows` tokens.
    fn new(ops: &O, config: &ModelConfig, rows: usize) -> Result<Self> {
        Self::with_keys(ops, config, rows, rows)
    }

    /// As [`Self::new`], but keys and values are kept elsewhere, and nothing for a backward pass.
    pub(super) fn without_keys(ops: &O, config: &ModelConfig, rows: usize) -> Result<Self> {
        Self::with_keys(ops, config, rows, 0)
    }

    fn with_keys(ops: &O, config: &ModelConfig, rows: usize, key_rows: usize) -> Result<Self> {
        let (query, key_value) = (rows * config.query_size(), key_rows * config.key_value_size());
        let inner = rows * config.intermediate_size;
        let unnormed = |heads| UnnormedHeads::new(ops, config, rows, heads);
        let unnormed = match config.variant.query_key_norm {
            true => Some([unnormed(config.num_attention_heads)?, unnormed(config.num_key_value_heads)?]),
            false => None,
        };
        Ok(Self {
            unnormed,
            query: ops.allocate_activations(query)?,
            key: ops.allocate_activations(key_value)?,
            value: ops.allocate_activations(key_value)?,
            attention: ops.allocate_activations(query)?,
            log_sum_exp: ops.allocate(key_rows * config.num_attention_heads)?,
            middle: ops.allocate_activations(rows * config.hidden_size)?,
            input_factors: ops.allocate(rows)?,
            middle_factors: ops.allocate(rows)?,
            gate: ops.allocate_activations(inner)?,
            up: ops.allocate_activations(inner)?,
        })
    }
}

/// Bytes of [`LayerActivations::new`].
fn layer_bytes(prices: &dyn MemoryPrices, config: &ModelConfig, rows: usize) -> u64 {
    2 * prices.activations(rows * config.query_size())
        + 2 * prices.activations(rows * config.key_value_size())
        + prices.buffer(rows * config.num_attention_heads)
        + prices.activations(rows * config.hidden_size)
        + 2 * prices.buffer(rows)
        + 2 * prices.activations(rows * config.intermediate_size)
        + if config.variant.query_key_norm { unnormed_bytes(prices, config, rows) } else { 0 }
}

/// One block's part of the activations in the forward pass.
pub(super) struct BlockMemory<'a, O: Ops> {
    pub input: &'a O::Buffer,
    pub saved: &'a mut LayerActivations<O>,
    /// `[rows, columns]`: scale · x · Aᵀ of every adapted layer of the block, side by side. Kept for every block: it is small.
    pub low_rank: &'a mut O::Buffer,
    pub output: &'a mut O::Buffer,
}

/// As [`BlockMemory`], in the backward pass.
pub(super) struct KeptBlockMemory<'a, O: Ops> {
    pub input: &'a O::Buffer,
    pub saved: &'a mut LayerActivations<O>,
    pub low_rank: &'a O::Buffer,
}

/// Everything a forward pass leaves.
pub struct Activations<O: Ops> {
    /// Tokens there is room for.
    pub rows: usize,
    pub(super) streams: Streams<O>,
    parked: Option<ParkedActivations<O>>,
    /// Where blocks are recomputed, or nothing is kept, the first is shared by them.
    layers: Vec<LayerActivations<O>>,
    low_rank: Vec<O::Buffer>,
    keep: Keep,
}

impl<O: Ops> Activations<O> {
    /// Room for `rows` tokens.
    pub fn new(ops: &O, config: &ModelConfig, layout: &LoraLayout, rows: usize, keep: Keep) -> Result<Self> {
        let (blocks, columns) = (config.num_hidden_layers, layout.most_columns());
        let [layers, low_rank] = keep.places(blocks);
        let places = StreamPlaces::new(keep, blocks);
        Ok(Self {
            rows,
            streams: Streams::new(ops, places, rows * config.hidden_size)?,
            parked: ParkedActivations::new(ops, config, rows, places)?,
            layers: (0..layers).map(|_| LayerActivations::new(ops, config, rows)).collect::<Result<_>>()?,
            low_rank: (0..low_rank).map(|_| ops.allocate_activations(rows * columns)).collect::<Result<_>>()?,
            keep,
        })
    }

    /// The residual stream before a block, or after the last, as the forward pass left it there: that of the last block, in any case. After it, rows
    /// are [`PackedBatch::output_rows`](super::PackedBatch::output_rows).
    pub fn hidden(&self, layer: usize) -> &O::Buffer {
        self.streams.get(layer)
    }

    /// Whether the backward pass computes a block's activations again. Of the blocks that share a place, the last one's are still there.
    pub(super) fn is_recomputed(&self, layer: usize) -> bool {
        match self.keep {
            Keep::Nothing => false,
            Keep::AllBut { recomputed, .. } => layer + 1 < recomputed.min(self.low_rank.len()),
        }
    }

    /// Where the results of a block are parked, if they are, beside the activations it computes in.
    pub(super) fn parked(&mut self, layer: usize) -> Option<(&mut ParkedActivations<O>, &mut LayerActivations<O>)> {
        let (place, _) = self.place(layer);
        let parked = self.parked.as_mut().filter(|parked| parked.takes(layer))?;
        Some((parked, &mut self.layers[place]))
    }

    /// A block's part in the forward pass.
    pub(super) fn block(&mut self, layer: usize) -> BlockMemory<'_, O> {
        let (place, low_rank) = self.place(layer);
        let (input, output) = self.streams.pair(layer);
        BlockMemory { input, saved: &mut self.layers[place], low_rank: &mut self.low_rank[low_rank], output }
    }

    /// A block's part in the backward pass, its input being there.
    pub(super) fn kept_block(&mut self, layer: usize) -> KeptBlockMemory<'_, O> {
        let (place, low_rank) = self.place(layer);
        KeptBlockMemory {
            input: self.streams.get(layer),
            saved: &mut self.layers[place],
            low_rank: &self.low_rank[low_rank],
        }
    }

    /// Where a block's activations and its products with A lie. The shared place comes first.
    fn place(&self, layer: usize) -> (usize, usize) {
        match self.keep {
            Keep::Nothing => (0, 0),
            Keep::AllBut { recomputed, .. } => (layer.saturating_sub(recomputed.saturating_sub(1)), layer),
        }
    }
}

/// Bytes of [`Activations::new`].
pub(crate) fn activation_bytes(
    prices: &dyn MemoryPrices,
    config: &ModelConfig,
    layout: &LoraLayout,
    rows: usize,
    keep: Keep,
) -> PlacedBytes {
    let [layers, low_rank] = keep.places(config.num_hidden_layers).map(|count| count as u64);
    let places = StreamPlaces::new(keep, config.num_hidden_layers);
    let device =
        layers * layer_bytes(prices, config, rows) + low_rank * prices.activations(rows * layout.most_columns());
    PlacedBytes { device, pinned_host: 0 }
        + stream_bytes(prices, places, rows * config.hidden_size)
        + parked_bytes(prices, config, rows, places)
}

/// What passes use in between.
pub struct Scratch<O: Ops> {
    /// `[rows, hidden_size]`
    pub(super) normed: O::Buffer,
    /// `[rows, intermediate_size]`, or `[rows, query_size]` of attention's output or its gradient in selected rows.
    pub(super) activated: O::Buffer,
    /// `[rows, in_features]` of the widest adapted layer: a masked copy of its input, or its part of the gradient. Only with dropout.
    pub(super) dropped: Option<O::Buffer>,
    pub(super) backward: Option<BackwardScratch<O>>,
}

/// What only the backward pass uses.
pub(super) struct BackwardScratch<O: Ops> {
    /// `[rows, hidden_size]`: gradient of the residual stream.
    pub hidden: O::Buffer,
    pub activated: O::Buffer,
    pub query: O::Buffer,
    pub key: O::Buffer,
    pub value: O::Buffer,
    /// `[rows, hidden_size]` with respect to normed rows, or `[rows, query_size]` to attention's output: never both at a time.
    pub normed_or_attention: O::Buffer,
    /// `[rows, columns of a group]`
    pub low_rank: O::Buffer,
}

impl<O: Ops> Scratch<O> {
    /// Scratch for `rows` tokens; `backward`: also for the backward pass.
    pub fn new(ops: &O, config: &ModelConfig, layout: &LoraLayout, rows: usize, backward: bool) -> Result<Self> {
        let (query, key_value) = (rows * config.query_size(), rows * config.key_value_size());
        let (hidden, inner) = (rows * config.hidden_size, rows * config.intermediate_size);
        let columns = layout.most_columns();
        let backward = backward.then(|| -> Result<_> {
            Ok(BackwardScratch {
                hidden: ops.allocate_activations(hidden)?,
                activated: ops.allocate_activations(inner)?,
                query: ops.allocate_activations(query)?,
                key: ops.allocate_activations(key_value)?,
                value: ops.allocate_activations(key_value)?,
                normed_or_attention: ops.allocate_activations(hidden.max(query))?,
                low_rank: ops.allocate_activations(rows * columns)?,
            })
        });
        Ok(Self {
            normed: ops.allocate_activations(hidden)?,
            activated: ops.allocate_activations(inner.max(query))?,
            dropped: None,
            backward: backward.transpose()?,
        })
    }

    /// The same with room for the dropout of `rows` tokens.
    pub fn with_dropout(self, ops: &O, layout: &LoraLayout, rows: usize) -> Result<Self> {
        Ok(Self { dropped: Some(ops.allocate_activations(rows * layout.widest_input())?), ..self })
    }
}

/// Bytes of [`Scratch::new`] with room for the backward pass.
pub(crate) fn scratch_bytes(prices: &dyn MemoryPrices, config: &ModelConfig, layout: &LoraLayout, rows: usize) -> u64 {
    let (hidden, query) = (rows * config.hidden_size, rows * config.query_size());
    let inner = rows * config.intermediate_size;
    2 * prices.activations(hidden)
        + prices.activations(inner)
        + prices.activations(inner.max(query))
        + prices.activations(query)
        + 2 * prices.activations(rows * config.key_value_size())
        + prices.activations(hidden.max(query))
        + prices.activations(rows * layout.most_columns())
}

/// Bytes of [`Scratch::with_dropout`] beside those.
pub(crate) fn dropout_bytes(prices: &dyn MemoryPrices, layout: &LoraLayout, rows: usize) -> u64 {
    prices.activations(rows * layout.widest_input())
}
