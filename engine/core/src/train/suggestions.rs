//! Settings that would fit where a run does not: found with the same planner, one change first, several where one is not enough.

use std::fmt;

use super::config::{Recompute, TrainConfig};
use super::memory_plan::{MemoryPlan, MemoryRequest};
use super::sizes::Sizes;
use crate::model::WeightForms;
use crate::quant::WeightStorage;

/// Example lengths that are suggested are multiples of this.
const LENGTH_STEP: usize = 64;
const FOUR_BITS: WeightStorage = WeightStorage::Nf4 { double_quant: true };

/// Settings to change so that a run fits; what is not named stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suggestion {
    /// Bytes of the run then.
    pub total_bytes: u64,
    /// Blocks that are recomputed then; named where the settings ask for fewer.
    pub recompute_layers: Option<usize>,
    /// The inputs of recomputed blocks wait outside the device's memory.
    pub offload_activations: bool,
    /// Smaller micro-batches, more of them to a step: the same steps.
    pub per_device_train_batch_size: Option<usize>,
    pub gradient_accumulation_steps: Option<usize>,
    pub per_device_eval_batch_size: Option<usize>,
    /// Weights of linear layers in 4 bits.
    pub load_in_4bit: bool,
    pub max_seq_length: Option<usize>,
}

impl fmt::Display for Suggestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |name: &str, value: Option<usize>| value.map(|value| format!("{name} {value}"));
        let parts = [
            self.load_in_4bit.then(|| "load_in 4bit".to_owned()),
            number("per_device_train_batch_size", self.per_device_train_batch_size),
            number("gradient_accumulation_steps", self.gradient_accumulation_steps),
            number("per_device_eval_batch_size", self.per_device_eval_batch_size),
            number("max_seq_length", self.max_seq_length),
            number("recompute_layers", self.recompute_layers),
            self.offload_activations.then(|| "offload_activations".to_owned()),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        write!(f, "{} ({})", parts.join(" with "), shown(self.total_bytes))
    }
}

/// Changes that are tried together.
#[derive(Clone, Copy, Default)]
struct Change {
    batch: bool,
    offload: bool,
    four_bits: bool,
    length: bool,
}

/// What would fit instead of `refused`; empty where nothing does.
pub(super) fn suggestions(request: &MemoryRequest<'_>, refused: &MemoryPlan, sizes: Sizes) -> Vec<Suggestion> {
    let mut search = Search::new(request, refused, sizes);
    let mut found: Vec<Suggestion> = search.recomputed().into_iter().collect();
    // Where that is enough, other changes are worth telling only if they spare it.
    search.most = if found.is_empty() { request.model.num_hidden_layers } else { search.least };
    let one = Change::default();
    let singles = [
        Change { batch: true, ..one },
        Change { offload: true, ..one },
        Change { four_bits: true, ..one },
        Change { length: true, ..one },
    ];
    found.extend(singles.into_iter().filter_map(|change| search.find(change)));
    if found.is_empty() {
        // Those that change no number first.
        let several = [
            Change { batch: true, offload: true, ..one },
            Change { batch: true, four_bits: true, ..one },
            Change { batch: true, offload: true, four_bits: true, length: false },
            Change { batch: true, length: true, ..one },
            Change { batch: true, four_bits: true, length: true, ..one },
            Change { batch: true, offload: true, four_bits: true, length: true },
        ];
        found.extend(several.into_iter().find_map(|change| search.find(change)));
    }
    found
}

struct Search<'a> {
    request: &'a MemoryRequest<'a>,
    /// Of the run as it is.
    sizes: Sizes,
    /// Blocks that the settings ask to recompute.
    least: usize,
    /// Blocks that a suggestion may recompute.
    most: usize,
    /// The weights in 4 bits, where that is less.
    four_bits: Option<WeightForms>,
}

impl<'a> Search<'a> {
    fn new(request: &'a MemoryRequest<'a>, refused: &MemoryPlan, sizes: Sizes) -> Self {
        let four_bits = request.weights.converted(FOUR_BITS);
        let less = four_bits.bytes(request.prices) < refused.weight_bytes;
        let least = match request.config.recompute_layers {
            Recompute::Auto => 0,
            Recompute::Layers(_) | Recompute::All => refused.recompute_layers,
        };
        Self { request, sizes, least, most: request.model.num_hidden_layers, four_bits: less.then_some(four_bits) }
    }

    /// The run with weights and sizes changed, and with the fewest recomputed blocks that make it fit.
    fn plan(&self, weights: Option<&WeightForms>, sizes: Sizes, offload: bool) -> Option<MemoryPlan> {
        let request = self.request;
        let loaded = (request.loaded && weights.is_none()).then_some(request.weights);
        let shape = request.shape(weights.unwrap_or(request.weights), sizes, offload);
        request.fewest(&shape, loaded, self.least..=self.most)
    }

    fn suggestion(&self, plan: &MemoryPlan) -> Suggestion {
        let asked = self.request.config.recompute_layers != Recompute::Auto;
        let more = asked && plan.recompute_layers > self.least;
        Suggestion {
            total_bytes: plan.total_bytes(),
            recompute_layers: more.then_some(plan.recompute_layers),
            offload_activations: plan.offload_activations && !self.request.config.offload_activations,
            ..Suggestion::default()
        }
    }

    /// More recomputed blocks, and nothing else.
    fn recomputed(&self) -> Option<Suggestion> {
        let offload = self.request.config.offload_activations;
        self.plan(None, self.sizes, offload).map(|plan| self.suggestion(&plan))
    }

    /// The least change of these settings that fits; none where even the largest does not, or where a setting cannot be changed.
    fn find(&self, change: Change) -> Option<Suggestion> {
        let weights = if change.four_bits { Some(self.four_bits.as_ref()?) } else { None };
        let config = self.request.config;
        if change.offload && config.offload_activations {
            return None;
        }
        let offload = change.offload || config.offload_activations;
        let batches = if change.batch { smaller_batches(config) } else { vec![config.clone()] };
        // Alone, the largest batch that fits; beside shorter examples, the smallest one, which leaves them longest.
        let batches = if change.length { vec![batches.last().unwrap_or(config).clone()] } else { batches };
        batches.into_iter().find_map(|changed| {
            let (limit, plan) = if change.length {
                self.longest(weights, &changed, offload)?
            } else {
                (None, self.whole(weights, &changed, offload)?)
            };
            let differing = |new: usize, old: usize| (new != old).then_some(new);
            Some(Suggestion {
                per_device_train_batch_size: differing(
                    changed.per_device_train_batch_size,
                    config.per_device_train_batch_size,
                ),
                gradient_accumulation_steps: differing(
                    changed.gradient_accumulation_steps,
                    config.gradient_accumulation_steps,
                ),
                per_device_eval_batch_size: differing(
                    changed.per_device_eval_batch_size,
                    config.per_device_eval_batch_size,
                ),
                load_in_4bit: change.four_bits,
                max_seq_length: limit,
                ..self.suggestion(&plan)
            })
        })
    }

    fn whole(&self, weights: Option<&WeightForms>, config: &TrainConfig, offload: bool) -> Option<MemoryPlan> {
        let MemoryRequest { train, evaluation, .. } = *self.request;
        let same = config == self.request.config;
        self.plan(weights, if same { self.sizes } else { Sizes::new(config, train, evaluation) }, offload)
    }

    /// The longest examples that fit, in whole steps.
    fn longest(
        &self,
        weights: Option<&WeightForms>,
        config: &TrainConfig,
        offload: bool,
    ) -> Option<(Option<usize>, MemoryPlan)> {
        let MemoryRequest { train, evaluation, .. } = *self.request;
        let sizes = |steps: usize| Sizes::bound(config, train, evaluation, steps * LENGTH_STEP);
        let longest = evaluation.map_or(0, |all| all.longest()).max(train.longest());
        let (mut fitting, mut too_long) = (0, longest.div_ceil(LENGTH_STEP));
        let mut best = None;
        // Between the two: `fitting` steps fit, `too_long` do not or are no change.
        while too_long - fitting > 1 {
            let middle = fitting.midpoint(too_long);
            match self.plan(weights, sizes(middle), offload) {
                Some(found) => (fitting, best) = (middle, Some(found)),
                None => too_long = middle,
            }
        }
        // Something must be left to learn.
        let best = best.filter(|_| sizes(fitting).labelled_rows > 0)?;
        Some((Some(fitting * LENGTH_STEP), best))
    }
}

/// Settings of the same steps in smaller micro-batches, the largest first. Evaluation batches are no larger than those of training then.
fn smaller_batches(config: &TrainConfig) -> Vec<TrainConfig> {
    let (batch, accumulation) = (config.per_device_train_batch_size, config.gradient_accumulation_steps);
    let divisors = (1..=batch).rev().filter(|size| batch.is_multiple_of(*size));
    let smaller = divisors.map(|size| TrainConfig {
        per_device_train_batch_size: size,
        gradient_accumulation_steps: accumulation * (batch / size),
        per_device_eval_batch_size: config.per_device_eval_batch_size.min(size),
        ..config.clone()
    });
    smaller.filter(|changed| changed != config).collect()
}

/// Bytes for people: in the largest binary unit that leaves at least 1.
pub(super) fn shown(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.iter().find(|(shift, _)| bytes >> shift > 0) {
        Some((shift, unit)) => format!("{:.2} {unit}", bytes as f64 / (1u64 << shift) as f64),
        None => format!("{bytes} bytes"),
    }
}
