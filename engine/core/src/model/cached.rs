//! New tokens of one sequence through the decoder: they attend to the kept keys and values of those before them.

use super::activations::{LayerActivations, Scratch};
use super::block::{Activation, Block, Projections, QueryKeyValue};
use super::decoder::Decoder;
use crate::config::ModelConfig;
use crate::error::{EngineError, Result};
use crate::lora::LoraLayout;
use crate::ops::{AttentionInputs, Ops, View, ViewMut};

/// Keys and values of one sequence in every block. Its memory is taken once, for the longest that the sequence can become.
pub struct KeyValueCache<O: Ops> {
    /// `[blocks, capacity, key_value_size]` each; keys after rope.
    keys: O::Buffer,
    values: O::Buffer,
    capacity: usize,
    len: usize,
}

impl<O: Ops> KeyValueCache<O> {
    /// An empty cache for up to `capacity` positions. `OUT_OF_MEMORY` where the device refuses.
    pub fn new(ops: &O, config: &ModelConfig, capacity: usize) -> Result<Self> {
        let numbers = config.num_hidden_layers * capacity * config.key_value_size();
        let (keys, values) = (ops.allocate_activations(numbers)?, ops.allocate_activations(numbers)?);
        Ok(Self { keys, values, capacity, len: 0 })
    }

    /// Positions whose keys and values are in every block.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is in yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// What a pass over new tokens uses in between. Nothing in it outlives a pass, so that sequences take turns with one.
pub struct StepMemory<O: Ops> {
    /// Tokens there is room for.
    rows: usize,
    ids: O::Indices,
    positions: O::Indices,
    staging: Vec<u32>,
    /// The residual stream, `[rows, hidden_size]`, before a block and after it, in turn.
    streams: [O::Buffer; 2],
    layer: LayerActivations<O>,
    scratch: Scratch<O>,
    /// `[rows, low_rank_columns]`: scale · x · Aᵀ; grows with the adapters it has met.
    low_rank: O::Buffer,
    low_rank_columns: usize,
}

impl<O: Ops> StepMemory<O> {
    /// Room for passes over up to `rows` tokens. `OUT_OF_MEMORY` where the device refuses.
    pub fn new(ops: &O, config: &ModelConfig, rows: usize) -> Result<Self> {
        let none = LoraLayout::empty(config);
        let stream = || ops.allocate_activations(rows * config.hidden_size);
        Ok(Self {
            rows,
            ids: ops.allocate_indices(rows)?,
            positions: ops.allocate_indices(rows)?,
            staging: Vec::new(),
            streams: [stream()?, stream()?],
            layer: LayerActivations::without_keys(ops, config, rows)?,
            scratch: Scratch::new(ops, config, &none, rows, false)?,
            low_rank: ops.allocate_activations(0)?,
            low_rank_columns: 0,
        })
    }

    fn fit(&mut self, ops: &O, layout: &LoraLayout) -> Result<()> {
        let columns = layout.most_columns();
        if columns > self.low_rank_columns {
            self.low_rank = ops.allocate_activations(self.rows * columns)?;
            self.low_rank_columns = columns;
        }
        Ok(())
    }
}

/// One block's part of a pass.
struct CachedBlock<'a, O: Ops> {
    rows: usize,
    /// Of the new rows.
    positions: &'a O::Indices,
    input: &'a O::Buffer,
    layer: &'a mut LayerActivations<O>,
    low_rank: &'a mut O::Buffer,
    output: &'a mut O::Buffer,
}

impl<O: Ops> Decoder<'_, O> {
    /// Runs `ids` at the cache's next positions and keeps their keys and values. `output [ids, hidden_size]` = the residual stream after the
    /// last block.
    ///
    /// Errors: `INTERNAL` for no ids, more than the memory or the cache has room for; what the device reports. The cache then is as before.
    pub fn extend(
        &self,
        ids: &[u32],
        cache: &mut KeyValueCache<O>,
        memory: &mut StepMemory<O>,
        output: &mut O::Buffer,
    ) -> Result<()> {
        let (ops, rows, start) = (self.ops, ids.len(), cache.len);
        if rows == 0 || rows > memory.rows || start + rows > cache.capacity {
            let (most, capacity) = (memory.rows, cache.capacity);
            let message = format!("{rows} tokens after {start}: a pass takes up to {most}, the cache {capacity}");
            return Err(EngineError::internal(message));
        }
        memory.fit(ops, &self.adapter.layout)?;
        let StepMemory { ids: ids_there, positions, staging, streams, layer, scratch, low_rank, .. } = memory;
        staging.clear();
        staging.extend(start as u32..(start + rows) as u32);
        ops.write_indices(staging, positions)?;
        ops.write_indices(ids, ids_there)?;
        let [mut input, mut next] = streams.each_mut();
        ops.embedding(&self.base.embed_tokens, ids_there, (&mut *input).into())?;
        let blocks = self.base.layers.len();
        for index in 0..blocks {
            let output = if index + 1 == blocks { &mut *output } else { &mut *next };
            let part = CachedBlock { rows, positions, input, layer, low_rank, output };
            self.block(index).forward_cached(index, part, cache, scratch)?;
            std::mem::swap(&mut input, &mut next);
        }
        cache.len += rows;
        Ok(())
    }
}

impl<O: Ops> Block<'_, O> {
    /// As [`Block::forward`], with keys and values in block `index` of a cache.
    fn forward_cached(
        &self,
        index: usize,
        part: CachedBlock<'_, O>,
        cache: &mut KeyValueCache<O>,
        scratch: &mut Scratch<O>,
    ) -> Result<()> {
        let CachedBlock { rows, positions, input, layer, low_rank, output } = part;
        let first = index * cache.capacity * self.config.key_value_size();
        let new = first + cache.len * self.config.key_value_size();
        let outputs = QueryKeyValue {
            query: (&mut layer.query).into(),
            key: ViewMut::at(&mut cache.keys, new),
            value: Some(ViewMut::at(&mut cache.values, new)),
            unnormed: layer.unnormed.as_mut(),
            factors: &mut layer.input_factors,
        };
        let mut products = Projections::New(&mut *low_rank);
        self.query_key_value(rows, positions, input, outputs, &mut products, scratch)?;
        let inputs = AttentionInputs {
            query: (&layer.query).into(),
            key: View::at(&cache.keys, first),
            value: View::at(&cache.values, first),
        };
        let attention = (&mut layer.attention).into();
        self.ops.cached_attention(self.config.attention_shape(), rows, cache.len + rows, inputs, attention)?;
        let (middle, dropped) = (&mut layer.middle, &mut scratch.dropped);
        self.attention_output(rows, &layer.attention, input, middle, &mut products, dropped)?;
        self.gate_up(rows, layer, &mut products, Activation::Now, scratch)?;
        self.down(rows, layer, low_rank, scratch, output)
    }
}
