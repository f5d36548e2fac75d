//! What recomputed blocks leave outside the device's memory besides their inputs: the results that cost most to compute again for their size.

use super::activations::LayerActivations;
use super::streams::StreamPlaces;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::ops::{MemoryPrices, Ops, PlacedBytes};

/// Values, attention's output and the residual stream after it.
struct Moving<T> {
    value: T,
    attention: T,
    middle: T,
}

impl<T> Moving<T> {
    /// Made from the numbers of elements.
    fn new(config: &ModelConfig, rows: usize, make: impl Fn(usize) -> Result<T>) -> Result<Self> {
        Ok(Self {
            value: make(rows * config.key_value_size())?,
            attention: make(rows * config.query_size())?,
            middle: make(rows * config.hidden_size)?,
        })
    }
}

/// One block's.
struct ParkedBlock<O: Ops> {
    moving: Moving<O::Parked>,
    /// Small: stays on the device.
    log_sum_exp: O::Buffer,
}

/// Those of the first blocks, all of which compute in the same [`LayerActivations`]: while a block's are copied, the next one computes in
/// other buffers.
pub(super) struct ParkedActivations<O: Ops> {
    blocks: Vec<ParkedBlock<O>>,
    spare: Moving<O::Buffer>,
    /// The blocks whose results are in the activations that blocks compute in, and in `spare`, or on their way there.
    here: Option<usize>,
    held: Option<usize>,
}

impl<O: Ops> ParkedActivations<O> {
    /// Room for `rows` tokens; none where no stream is parked.
    pub fn new(ops: &O, config: &ModelConfig, rows: usize, places: StreamPlaces) -> Result<Option<Self>> {
        if places.parked == 0 {
            return Ok(None);
        }
        let block = |_| -> Result<_> {
            let log_sum_exp = ops.allocate(rows * config.num_attention_heads)?;
            Ok(ParkedBlock { moving: Moving::new(config, rows, |len| ops.allocate_parked(len))?, log_sum_exp })
        };
        Ok(Some(Self {
            blocks: (0..places.parked).map(block).collect::<Result<_>>()?,
            spare: Moving::new(config, rows, |len| ops.allocate_activations(len))?,
            here: None,
            held: None,
        }))
    }

    /// Whether a block's results are parked here.
    pub fn takes(&self, layer: usize) -> bool {
        layer < self.blocks.len()
    }

    fn swap(&mut self, saved: &mut LayerActivations<O>) {
        std::mem::swap(&mut self.spare.value, &mut saved.value);
        std::mem::swap(&mut self.spare.attention, &mut saved.attention);
        std::mem::swap(&mut self.spare.middle, &mut saved.middle);
        std::mem::swap(&mut self.here, &mut self.held);
    }

    /// Before a block's forward pass: gives it the buffers that the last block's results are not copied from.
    pub fn begin(&mut self, layer: usize, saved: &mut LayerActivations<O>) {
        self.swap(saved);
        self.here = Some(layer);
    }

    /// Starts to copy a block's results away, after its forward pass over `rows` tokens.
    pub fn park(
        &mut self,
        ops: &O,
        config: &ModelConfig,
        layer: usize,
        rows: usize,
        saved: &mut LayerActivations<O>,
    ) -> Result<()> {
        let ParkedBlock { moving, log_sum_exp } = &mut self.blocks[layer];
        ops.park(rows * config.key_value_size(), &saved.value, &mut moving.value)?;
        ops.park(rows * config.query_size(), &saved.attention, &mut moving.attention)?;
        ops.park(rows * config.hidden_size, &saved.middle, &mut moving.middle)?;
        std::mem::swap(log_sum_exp, &mut saved.log_sum_exp);
        Ok(())
    }

    /// Starts to bring a block's results back, beside what the block after it computes.
    pub fn prefetch(&mut self, ops: &O, config: &ModelConfig, layer: usize, rows: usize) -> Result<()> {
        if self.held == Some(layer) {
            return Ok(());
        }
        let moving = &self.blocks[layer].moving;
        ops.fetch(rows * config.key_value_size(), &moving.value, &mut self.spare.value)?;
        ops.fetch(rows * config.query_size(), &moving.attention, &mut self.spare.attention)?;
        ops.fetch(rows * config.hidden_size, &moving.middle, &mut self.spare.middle)?;
        self.held = Some(layer);
        Ok(())
    }

    /// Before a block's backward pass: its results are where its forward pass left them.
    pub fn bring_back(
        &mut self,
        ops: &O,
        config: &ModelConfig,
        layer: usize,
        rows: usize,
        saved: &mut LayerActivations<O>,
    ) -> Result<()> {
        if self.here != Some(layer) {
            self.prefetch(ops, config, layer, rows)?;
            self.swap(saved);
        }
        std::mem::swap(&mut self.blocks[layer].log_sum_exp, &mut saved.log_sum_exp);
        Ok(())
    }
}

/// Bytes of [`ParkedActivations::new`].
pub(super) fn parked_bytes(
    prices: &dyn MemoryPrices,
    config: &ModelConfig,
    rows: usize,
    places: StreamPlaces,
) -> PlacedBytes {
    if places.parked == 0 {
        return PlacedBytes::default();
    }
    let lengths = [config.key_value_size(), config.query_size(), config.hidden_size].map(|width| rows * width);
    let spare = lengths.iter().map(|len| prices.activations(*len)).sum();
    let sums = PlacedBytes { device: prices.buffer(rows * config.num_attention_heads), pinned_host: 0 };
    let block = lengths.iter().fold(sums, |bytes, len| bytes + prices.parked(*len));
    block * places.parked + PlacedBytes { device: spare, pinned_host: 0 }
}
