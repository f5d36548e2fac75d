//! A run's memory, priced before any of it is taken, and the choice of the blocks that are recomputed.

use std::ops::RangeInclusive;

use super::config::{Recompute, TrainConfig};
use super::optimizer::OptimizerPlan;
use super::sizes::Sizes;
use super::suggestions::{Suggestion, shown, suggestions};
use crate::config::ModelConfig;
use crate::error::{EngineError, ErrorCode};
use crate::lora::{LoraGroup, LoraLayout, LoraModule};
use crate::model::{
    Examples, Keep, WeightForms, activation_bytes, batch_bytes, dropout_bytes, head_bytes, rope_angle_count,
    scratch_bytes,
};
use crate::ops::{MemoryPrices, MemoryRoom, PlacedBytes, ScratchDemand};

/// Bytes of the device that a run takes at its peak, by part, and what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The base model.
    pub weight_bytes: u64,
    /// The adapter, its gradients and moments, and its copy in the type of activations.
    pub adapter_bytes: u64,
    /// What the forward pass of a training micro-batch keeps for the backward pass.
    pub activation_bytes: u64,
    /// Activations of evaluation, where its batches are larger than those of training.
    pub evaluation_bytes: u64,
    /// What passes use in between, the head's pieces, and what the device's operations take for themselves.
    pub scratch_bytes: u64,
    /// Of `scratch_bytes`, those of the device's operations.
    pub(super) device_scratch_bytes: u64,
    /// Beside the device: locked memory of the host, for layer inputs and the embedding table where they are kept there.
    pub pinned_host_bytes: u64,
    /// Blocks whose activations the backward pass computes again.
    pub recompute_layers: usize,
    /// Whether the inputs of those wait outside the device's memory.
    pub offload_activations: bool,
}

impl MemoryPlan {
    /// All parts on the device together.
    pub fn total_bytes(&self) -> u64 {
        let Self { weight_bytes, adapter_bytes, activation_bytes, evaluation_bytes, scratch_bytes, .. } = *self;
        weight_bytes + adapter_bytes + activation_bytes + evaluation_bytes + scratch_bytes
    }
}

/// What a plan depends on, but for the recomputed blocks.
pub(super) struct RunShape<'a> {
    pub prices: &'a dyn MemoryPrices,
    pub config: &'a ModelConfig,
    pub weights: &'a WeightForms,
    pub layout: &'a LoraLayout,
    pub sizes: Sizes,
    pub offload_activations: bool,
    pub dropout: bool,
    pub optimizer: &'a OptimizerPlan,
}

impl RunShape<'_> {
    /// The bytes of `Workspace::new` and of the device's own scratch, with so many blocks recomputed.
    pub fn plan(&self, recompute_layers: usize) -> MemoryPlan {
        let Self { prices, config, weights, layout, sizes, offload_activations, dropout, optimizer } = *self;
        let rows = sizes.rows();
        let activations = |rows, keep| activation_bytes(prices, config, layout, rows, keep);
        let keep = Keep::AllBut { recomputed: recompute_layers, offload: offload_activations };
        let PlacedBytes { device, pinned_host } = activations(sizes.train.rows, keep);
        let device_scratch_bytes = prices.scratch(&self.demand());
        MemoryPlan {
            weight_bytes: weights.bytes(prices),
            adapter_bytes: 2 * prices.buffer(layout.len())
                + optimizer.bytes(prices)
                + prices.adapter_copy(layout.len()),
            activation_bytes: device,
            evaluation_bytes: if sizes.evaluation.rows > sizes.train.rows {
                activations(sizes.evaluation.rows, Keep::Nothing).device
            } else {
                0
            },
            scratch_bytes: prices.buffer(rope_angle_count(config, sizes.longest()))
                + batch_bytes(prices, rows)
                + scratch_bytes(prices, config, layout, rows)
                + if dropout { dropout_bytes(prices, layout, sizes.train.rows) } else { 0 }
                + head_bytes(prices, config, sizes.labelled_rows)
                + device_scratch_bytes,
            device_scratch_bytes,
            pinned_host_bytes: weights.pinned_host_bytes(prices) + pinned_host,
            recompute_layers,
            offload_activations,
        }
    }

    fn demand(&self) -> ScratchDemand<'_> {
        let Self { config, weights, layout, .. } = *self;
        let lowest = layout.lowest_layer().unwrap_or(0);
        // Gradients go through the output layer and every block down to the lowest that learns, whose own input needs none.
        let above = weights.layers.iter().skip(lowest).flatten().skip(3);
        let together =
            |modules: &[LoraModule]| (modules[0].r, modules.iter().map(|module| module.out_features).collect());
        ScratchDemand {
            train: self.sizes.train,
            evaluation: self.sizes.evaluation,
            attention: config.attention_shape(),
            forward: weights.layers.iter().flatten().chain([weights.output()]).collect(),
            backward: above.chain([weights.output()]).collect(),
            low_rank: layout.groups().flat_map(LoraGroup::of_one_rank).map(together).collect(),
        }
    }
}

/// A plan beside what there is room for.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryEstimate {
    pub plan: MemoryPlan,
    /// What the plan was made for.
    pub(super) sizes: Sizes,
    /// Blocks of the model.
    pub layers: usize,
    /// Of the plan's bytes, those that a loaded model and earlier work hold already.
    pub held_bytes: u64,
    /// Bytes that the device can still hand out; none where nobody knows.
    pub free_bytes: Option<u64>,
    /// Of the free bytes, those that a plan leaves alone.
    pub margin_bytes: u64,
    /// Whether the plan's bytes that are not held fit into the free ones but for the margin.
    pub fits: bool,
    /// Where it does not fit: other settings that do, as the memory is now.
    pub suggestions: Vec<Suggestion>,
}

/// What is to be run, and where.
pub(super) struct MemoryRequest<'a> {
    pub prices: &'a dyn MemoryPrices,
    pub room: MemoryRoom,
    pub model: &'a ModelConfig,
    pub weights: &'a WeightForms,
    /// Whether the weights are loaded.
    pub loaded: bool,
    pub config: &'a TrainConfig,
    pub layout: &'a LoraLayout,
    pub train: &'a dyn Examples,
    pub evaluation: Option<&'a dyn Examples>,
    pub optimizer: &'a OptimizerPlan,
}

impl<'a> MemoryRequest<'a> {
    pub fn shape(&self, weights: &'a WeightForms, sizes: Sizes, offload_activations: bool) -> RunShape<'a> {
        let Self { prices, model, layout, config, optimizer, .. } = *self;
        let dropout = config.lora.lora_dropout > 0.0;
        RunShape { prices, config: model, weights, layout, sizes, offload_activations, dropout, optimizer }
    }

    /// Of a plan's bytes, those that are held already.
    pub fn held_bytes(&self, plan: &MemoryPlan, loaded: Option<&WeightForms>) -> u64 {
        let weights = loaded.map_or(0, |weights| weights.held_bytes(self.prices));
        weights + self.room.scratch_bytes.min(plan.device_scratch_bytes)
    }

    pub fn margin_bytes(&self) -> u64 {
        self.room.free_bytes.map_or(0, |free| self.prices.margin(free))
    }

    pub fn fits(&self, plan: &MemoryPlan, loaded: Option<&WeightForms>) -> bool {
        let needed = plan.total_bytes() - self.held_bytes(plan, loaded);
        self.room.free_bytes.is_none_or(|free| needed <= free.saturating_sub(self.margin_bytes()))
    }

    /// The plan with the fewest recomputed blocks, within bounds, that fits.
    pub fn fewest(
        &self,
        shape: &RunShape<'_>,
        loaded: Option<&WeightForms>,
        mut layers: RangeInclusive<usize>,
    ) -> Option<MemoryPlan> {
        layers.find_map(|layers| Some(shape.plan(layers)).filter(|plan| self.fits(plan, loaded)))
    }

    /// Prices the run and chooses the recomputed blocks as the settings ask.
    pub fn estimate(&self) -> MemoryEstimate {
        let layers = self.model.num_hidden_layers;
        let sizes = Sizes::new(self.config, self.train, self.evaluation);
        let shape = self.shape(self.weights, sizes, self.config.offload_activations);
        let loaded = self.loaded.then_some(self.weights);
        let plan = match self.config.recompute_layers {
            Recompute::Auto => self.fewest(&shape, loaded, 0..=layers).unwrap_or_else(|| shape.plan(layers)),
            Recompute::Layers(count) => shape.plan(count.min(layers)),
            Recompute::All => shape.plan(layers),
        };
        let fits = self.fits(&plan, loaded);
        MemoryEstimate {
            sizes,
            layers,
            held_bytes: self.held_bytes(&plan, loaded),
            free_bytes: self.room.free_bytes,
            margin_bytes: self.margin_bytes(),
            fits,
            suggestions: if fits { Vec::new() } else { suggestions(self, &plan, sizes) },
            plan,
        }
    }
}

impl MemoryEstimate {
    /// Why a run that does not fit is refused: `OUT_OF_MEMORY` with all numbers. None where it fits.
    pub fn refusal(&self) -> Option<EngineError> {
        if self.fits {
            return None;
        }
        let MemoryPlan { weight_bytes, adapter_bytes, activation_bytes, evaluation_bytes, scratch_bytes, .. } =
            self.plan;
        let parts = [
            ("weights", weight_bytes),
            ("adapter and optimizer", adapter_bytes),
            ("activations", activation_bytes),
            ("evaluation", evaluation_bytes),
            ("scratch", scratch_bytes),
        ];
        let parts = parts.iter().filter(|(_, bytes)| *bytes > 0);
        let parts: Vec<String> = parts.map(|(name, bytes)| format!("{name} {}", shown(*bytes))).collect();
        let suggestions: Vec<String> = self.suggestions.iter().map(ToString::to_string).collect();
        let advice = if suggestions.is_empty() {
            "no setting makes it fit; free memory, or use a device with more".to_owned()
        } else {
            format!("what would fit: {}", suggestions.join("; or "))
        };
        let pinned = match self.plan.pinned_host_bytes {
            0 => String::new(),
            bytes => format!(", and {} locked in the host's memory", shown(bytes)),
        };
        let message = format!(
            "the run needs {} with {} of {} layers recomputed ({}){pinned}; {} are held already, {} are free, of which {} stay free; {advice}",
            shown(self.plan.total_bytes()),
            self.plan.recompute_layers,
            self.layers,
            parts.join(", "),
            shown(self.held_bytes),
            shown(self.free_bytes.unwrap_or(0)),
            shown(self.margin_bytes),
        );
        Some(EngineError::new(ErrorCode::OutOfMemory, message))
    }
}
