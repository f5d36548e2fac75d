//! What recomputed blocks leave outside the device's memory besides their inputs: the results that cost most to compute again for their size.

use super::activations::LayerActivations;
use super::streams::StreamPlaces;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::ops::{MemoryPrices, Ops, PlacedBytes};

/// Values, attention's output and the residual stream after it.
type Moving<T> = [T; 3];

/// Numbers of each over `rows` tokens.
fn lengths(config: &ModelConfig, rows: usize) -> Moving<usize> {
    [config.key_value_size(), config.query_size(), config.hidden_size].map(|width| rows * width)
}

/// One for each, made from the numbers.
fn make<T>(config: &ModelConfig, rows: usize, make: impl Fn(usize) -> Result<T>) -> Result<Moving<T>> {
    let [value, attention, middle] = lengths(config, rows);
    Ok([make(value)?, make(attention)?, make(middle)?])
}

/// Those that a block computes in.
fn moving<O: Ops>(saved: &mut LayerActivations<O>) -> Moving<&mut O::Buffer> {
    [&mut saved.value, &mut saved.attention, &mut saved.middle]
}

/// One block's.
struct ParkedBlock<O: Ops> {
    parked: Moving<O::Parked>,
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
            Ok(ParkedBlock { parked: make(config, rows, |len| ops.allocate_parked(len))?, log_sum_exp })
        };
        Ok(Some(Self {
            blocks: (0..places.parked).map(block).collect::<Result<_>>()?,
            spare: make(config, rows, |len| ops.allocate_activations(len))?,
            here: None,
            held: None,
        }))
    }

    /// Whether a block's results are parked here.
    pub fn takes(&self, layer: usize) -> bool {
        layer < self.blocks.len()
    }

    fn swap(&mut self, saved: &mut LayerActivations<O>) {
        for (spare, buffer) in self.spare.iter_mut().zip(moving(saved)) {
            std::mem::swap(spare, buffer);
        }
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
        let ParkedBlock { parked, log_sum_exp } = &mut self.blocks[layer];
        for ((len, buffer), place) in lengths(config, rows).into_iter().zip(moving(saved)).zip(parked) {
            ops.park(len, buffer, place)?;
        }
        std::mem::swap(log_sum_exp, &mut saved.log_sum_exp);
        Ok(())
    }

    /// Starts to bring a block's results back, beside what the block after it computes.
    pub fn prefetch(&mut self, ops: &O, config: &ModelConfig, layer: usize, rows: usize) -> Result<()> {
        if self.held == Some(layer) {
            return Ok(());
        }
        let parked = &self.blocks[layer].parked;
        for ((len, place), buffer) in lengths(config, rows).into_iter().zip(parked).zip(&mut self.spare) {
            ops.fetch(len, place, buffer)?;
        }
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
    let lengths = lengths(config, rows);
    let spare = lengths.iter().map(|len| prices.activations(*len)).sum();
    let sums = PlacedBytes { device: prices.buffer(rows * config.num_attention_heads), pinned_host: 0 };
    let block = lengths.iter().fold(sums, |bytes, len| bytes + prices.parked(*len));
    block * places.parked + PlacedBytes { device: spare, pinned_host: 0 }
}
