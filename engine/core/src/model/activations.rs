//! Memory of a micro-batch: what the forward pass leaves for the backward pass, and what both use in passing. Made once, reused.

use crate::config::ModelConfig;
use crate::error::Result;
use crate::lora::LoraLayout;
use crate::ops::Ops;

/// What a block leaves for its backward pass, besides its input. Rows are tokens.
pub struct LayerActivations<O: Ops> {
    /// After rope: `[rows, query_size]` and `[rows, key_value_size]`.
    pub query: O::Buffer,
    pub key: O::Buffer,
    pub value: O::Buffer,
    /// `[rows, query_size]`
    pub attention: O::Buffer,
    /// `[rows, num_attention_heads]`
    pub log_sum_exp: O::Buffer,
    /// `[rows, hidden_size]`: the residual stream between attention and MLP.
    pub middle: O::Buffer,
    /// `[rows, intermediate_size]`
    pub gate: O::Buffer,
    pub up: O::Buffer,
    /// `[rows, columns]`: scale · x · Aᵀ of every adapted layer of the block, side by side.
    pub low_rank: O::Buffer,
}

/// Everything a forward pass leaves.
pub struct Activations<O: Ops> {
    /// Tokens there is room for.
    pub rows: usize,
    /// The residual stream before each block and after the last, `[rows, hidden_size]` each; two, used in turn, where nothing is kept.
    hidden: Vec<O::Buffer>,
    layers: Vec<LayerActivations<O>>,
    kept: bool,
}

impl<O: Ops> Activations<O> {
    /// Room for `rows` tokens: for every block where a backward pass follows (`kept`), else for one block at a time.
    pub fn new(ops: &O, config: &ModelConfig, layout: &LoraLayout, rows: usize, kept: bool) -> Result<Self> {
        let blocks = config.num_hidden_layers;
        let (query, key_value) = (rows * config.query_size(), rows * config.key_value_size());
        let (hidden, inner) = (rows * config.hidden_size, rows * config.intermediate_size);
        let columns = (0..blocks).map(|layer| layout.columns(layer)).max().unwrap_or(0);
        let layer = |_| {
            Ok(LayerActivations {
                query: ops.allocate_activations(query)?,
                key: ops.allocate_activations(key_value)?,
                value: ops.allocate_activations(key_value)?,
                attention: ops.allocate_activations(query)?,
                log_sum_exp: ops.allocate(rows * config.num_attention_heads)?,
                middle: ops.allocate_activations(hidden)?,
                gate: ops.allocate_activations(inner)?,
                up: ops.allocate_activations(inner)?,
                low_rank: ops.allocate_activations(rows * columns)?,
            })
        };
        let streams = if kept { blocks + 1 } else { 2 };
        Ok(Self {
            rows,
            hidden: (0..streams).map(|_| ops.allocate_activations(hidden)).collect::<Result<_>>()?,
            layers: (0..if kept { blocks } else { 1 }).map(layer).collect::<Result<_>>()?,
            kept,
        })
    }

    fn stream(&self, layer: usize) -> usize {
        if self.kept { layer } else { layer % 2 }
    }

    /// The residual stream before a block (or after the last).
    pub fn hidden(&self, layer: usize) -> &O::Buffer {
        &self.hidden[self.stream(layer)]
    }

    /// As [`Self::hidden`], to write to.
    pub fn hidden_mut(&mut self, layer: usize) -> &mut O::Buffer {
        let stream = self.stream(layer);
        &mut self.hidden[stream]
    }

    /// A block's input, its place for activations, and its output.
    pub(super) fn block(&mut self, layer: usize) -> (&O::Buffer, &mut LayerActivations<O>, &mut O::Buffer) {
        let (from, to) = (self.stream(layer), self.stream(layer + 1));
        let (before, after) = self.hidden.split_at_mut(from.max(to));
        let (input, output) = if from < to { (&before[from], &mut after[0]) } else { (&after[0], &mut before[to]) };
        (input, &mut self.layers[if self.kept { layer } else { 0 }], output)
    }
}

/// What passes use in between.
pub struct Scratch<O: Ops> {
    pub(super) normed: O::Buffer,
    /// `[rows]`: reciprocal RMS of the last norm.
    pub(super) factors: O::Buffer,
    /// `[rows, intermediate_size]`
    pub(super) activated: O::Buffer,
    pub(super) backward: Option<BackwardScratch<O>>,
}

/// What only the backward pass uses.
pub(super) struct BackwardScratch<O: Ops> {
    /// `[rows, hidden_size]`: gradient of the residual stream.
    pub hidden: O::Buffer,
    pub normed: O::Buffer,
    pub activated: O::Buffer,
    pub query: O::Buffer,
    pub key: O::Buffer,
    pub value: O::Buffer,
    pub attention: O::Buffer,
    /// `[rows, columns of a group]`
    pub low_rank: O::Buffer,
}

impl<O: Ops> Scratch<O> {
    /// Scratch for `rows` tokens; `backward`: also for the backward pass.
    pub fn new(ops: &O, config: &ModelConfig, layout: &LoraLayout, rows: usize, backward: bool) -> Result<Self> {
        let (query, key_value) = (rows * config.query_size(), rows * config.key_value_size());
        let (hidden, inner) = (rows * config.hidden_size, rows * config.intermediate_size);
        let columns = (0..config.num_hidden_layers).map(|layer| layout.columns(layer)).max().unwrap_or(0);
        let backward = backward.then(|| -> Result<_> {
            Ok(BackwardScratch {
                hidden: ops.allocate_activations(hidden)?,
                normed: ops.allocate_activations(hidden)?,
                activated: ops.allocate_activations(inner)?,
                query: ops.allocate_activations(query)?,
                key: ops.allocate_activations(key_value)?,
                value: ops.allocate_activations(key_value)?,
                attention: ops.allocate_activations(query)?,
                low_rank: ops.allocate_activations(rows * columns)?,
            })
        });
        Ok(Self {
            normed: ops.allocate_activations(hidden)?,
            factors: ops.allocate(rows)?,
            activated: ops.allocate_activations(inner)?,
            backward: backward.transpose()?,
        })
    }
}
