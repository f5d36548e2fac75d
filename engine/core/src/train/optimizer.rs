//! AdamW over an adapter: which numbers have which learning rate, and how their moments are held.

use std::ops::Range;
use std::str::FromStr;

use super::checkpoint::HostTensors;
use super::config::TrainConfig;
use crate::error::{EngineError, Result};
use crate::lora::LoraLayout;
use crate::ops::{AdamW, AdamW8bitState, AdamWState, MOMENT_BLOCK, MemoryPrices, Ops, View, ViewMut};

/// Matrices with fewer numbers keep moments in full precision, as bitsandbytes' `min_8bit_size`.
const SMALLEST_8BIT: usize = 4096;

/// The optimizer of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Optim {
    /// torch's AdamW.
    #[default]
    AdamW,
    /// bitsandbytes' AdamW with moments in 8 bits.
    AdamW8bit,
}

impl FromStr for Optim {
    type Err = EngineError;

    /// transformers' names. `INVALID_ARGUMENT` for anything else.
    fn from_str(name: &str) -> Result<Self> {
        match name {
            "adamw_torch" | "adamw_torch_fused" => Ok(Self::AdamW),
            "adamw_8bit" | "adamw_bnb_8bit" => Ok(Self::AdamW8bit),
            _ => Err(EngineError::invalid(format!(
                "optim is `{name}`; expected adamw_torch, adamw_torch_fused, adamw_8bit or adamw_bnb_8bit"
            ))),
        }
    }
}

/// Numbers that are updated together.
#[derive(Clone, Debug, PartialEq)]
struct Part {
    range: Range<usize>,
    /// Of the learning rate.
    factor: f64,
    moments: Place,
}

/// Where moments begin.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Full(usize),
    EightBit { codes_at: usize, scales_at: usize },
}

/// The parts of an adapter, and how many numbers either kind of moment has.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct OptimizerPlan {
    parts: Vec<Part>,
    full: usize,
    codes: usize,
    scales: usize,
}

impl OptimizerPlan {
    /// With LoRA+ (Hayou et al., "LoRA+: Efficient Low Rank Adaptation of Large Models", 2024) every B has `loraplus_lr_ratio` times the learning
    /// rate.
    pub fn new(config: &TrainConfig, layout: &LoraLayout) -> Self {
        let TrainConfig { optim, loraplus_lr_ratio: ratio, .. } = *config;
        let mut plan = Self { parts: Vec::new(), full: 0, codes: 0, scales: 0 };
        if optim == Optim::AdamW8bit {
            for module in layout.modules() {
                let (a, b) = (module.r * module.in_features, module.out_features * module.r);
                plan.add(module.a_offset..module.a_offset + a, 1.0, a >= SMALLEST_8BIT);
                plan.add(module.b_offset..module.b_offset + b, ratio, b >= SMALLEST_8BIT);
            }
        } else if ratio == 1.0 {
            plan.add(0..layout.len(), 1.0, false);
        } else {
            for group in layout.groups().filter(|group| !group.modules.is_empty()) {
                let border = group.a_offset + group.columns * group.in_features;
                let b: usize = group.modules.iter().map(|module| module.out_features * module.r).sum();
                plan.add(group.a_offset..border, 1.0, false);
                plan.add(border..border + b, ratio, false);
            }
        }
        plan
    }

    fn add(&mut self, range: Range<usize>, factor: f64, in_8bit: bool) {
        let len = range.len();
        let moments = if in_8bit {
            let place = Place::EightBit { codes_at: self.codes, scales_at: self.scales };
            (self.codes, self.scales) = (self.codes + len, self.scales + len.div_ceil(MOMENT_BLOCK));
            place
        } else {
            self.full += len;
            Place::Full(self.full - len)
        };
        self.parts.push(Part { range, factor, moments });
    }

    /// Bytes of [`Optimizer::new`].
    pub fn bytes(&self, prices: &dyn MemoryPrices) -> u64 {
        2 * (prices.buffer(self.full) + prices.codes(self.codes) + prices.buffer(self.scales))
    }
}

/// One of AdamW's two moments of every number.
struct Moments<O: Ops> {
    full: O::Buffer,
    codes: O::Codes,
    scales: O::Buffer,
}

impl<O: Ops> Moments<O> {
    /// Reads them into memory that `host` gives by name.
    fn read(&self, ops: &O, plan: [usize; 3], which: &str, host: &mut HostTensors) -> Result<()> {
        let [full, codes, scales] = plan;
        let [name, codes_name, scales_name] = names(which);
        host.read(&name, full, |values| ops.read(View::from(&self.full), values))?;
        host.read_codes(&codes_name, codes, |values| ops.read_codes(&self.codes, values))?;
        host.read(&scales_name, scales, |values| ops.read(View::from(&self.scales), values))
    }

    fn write(&mut self, ops: &O, plan: [usize; 3], which: &str, host: &HostTensors) -> Result<()> {
        let [full, codes, scales] = plan;
        let [name, codes_name, scales_name] = names(which);
        ops.write(host.numbers(&name, full)?, ViewMut::from(&mut self.full))?;
        ops.write_codes(host.codes(&codes_name, codes)?, &mut self.codes)?;
        ops.write(host.numbers(&scales_name, scales)?, ViewMut::from(&mut self.scales))
    }
}

/// Of the tensors of one moment in a checkpoint: numbers in full precision, codes, and the codes' scales.
fn names(which: &str) -> [String; 3] {
    ["", ".codes", ".scales"].map(|part| format!("moments.{which}{part}"))
}

/// The optimizer's state on the device.
pub(super) struct Optimizer<O: Ops> {
    parts: Vec<Part>,
    /// Numbers in full precision, codes and scales of either moment.
    sizes: [usize; 3],
    first: Moments<O>,
    second: Moments<O>,
}

impl<O: Ops> Optimizer<O> {
    /// Moments of zero. `OUT_OF_MEMORY` where the device refuses.
    pub fn new(ops: &O, plan: OptimizerPlan) -> Result<Self> {
        let moments = || -> Result<Moments<O>> {
            Ok(Moments {
                full: ops.allocate(plan.full)?,
                codes: ops.allocate_codes(plan.codes)?,
                scales: ops.allocate(plan.scales)?,
            })
        };
        let sizes = [plan.full, plan.codes, plan.scales];
        Ok(Self { first: moments()?, second: moments()?, parts: plan.parts, sizes })
    }

    /// Copies both moments to the host. Waits for the device.
    pub fn capture(&self, ops: &O, host: &mut HostTensors) -> Result<()> {
        self.first.read(ops, self.sizes, "first", host)?;
        self.second.read(ops, self.sizes, "second", host)
    }

    /// Goes back to moments that [`Self::capture`] copied.
    ///
    /// Errors: `CHECKPOINT_MISMATCH` where there are others.
    pub fn restore(&mut self, ops: &O, host: &HostTensors) -> Result<()> {
        self.first.write(ops, self.sizes, "first", host)?;
        self.second.write(ops, self.sizes, "second", host)
    }

    /// One update.
    pub fn update(
        &mut self,
        ops: &O,
        settings: AdamW,
        parameters: &mut O::Buffer,
        gradients: &O::Buffer,
    ) -> Result<()> {
        let Self { parts, first, second, .. } = self;
        for Part { range, factor, moments } in parts {
            let settings = AdamW { learning_rate: settings.learning_rate * *factor, ..settings };
            let range = range.clone();
            match *moments {
                Place::Full(moments_at) => {
                    let (first_moments, second_moments) = (&mut first.full, &mut second.full);
                    let state = AdamWState { parameters, gradients, range, first_moments, second_moments, moments_at };
                    ops.adamw(settings, state)?;
                }
                Place::EightBit { codes_at, scales_at } => {
                    let state = AdamW8bitState {
                        parameters,
                        gradients,
                        range,
                        first_codes: &mut first.codes,
                        second_codes: &mut second.codes,
                        codes_at,
                        first_scales: &mut first.scales,
                        second_scales: &mut second.scales,
                        scales_at,
                    };
                    ops.adamw_8bit(settings, state)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::tests::config;
    use super::*;
    use crate::config::{ModelConfig, Variant};
    use crate::lora::LoraConfig;

    /// Every number once, in whatever parts; each B with its own rate.
    #[test]
    fn parts_cover_the_adapter_once() {
        let model = ModelConfig {
            model_type: "llama".to_owned(),
            vocab_size: 32,
            hidden_size: 8,
            intermediate_size: 12,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            head_dim: 4,
            sliding_window: None,
            max_position_embeddings: 64,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            tie_word_embeddings: true,
            variant: Variant::default(),
            eos_token_ids: vec![],
            bos_token_id: None,
        };
        let lora = LoraConfig { r: 400, ..LoraConfig::default() };
        let layout = LoraLayout::for_config(&model, &lora).unwrap();
        for optim in [Optim::AdamW, Optim::AdamW8bit] {
            for loraplus_lr_ratio in [1.0, 16.0] {
                let plan = OptimizerPlan::new(&TrainConfig { optim, loraplus_lr_ratio, ..config() }, &layout);
                let mut parts: Vec<_> = plan.parts.iter().map(|part| part.range.clone()).collect();
                parts.sort_by_key(|range| range.start);
                assert!(parts.iter().all(|range| !range.is_empty()));
                assert_eq!((parts[0].start, parts[parts.len() - 1].end), (0, layout.len()));
                assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
                assert_eq!(plan.full + plan.codes, layout.len());
                for module in layout.modules() {
                    let factor = |at: usize| plan.parts.iter().find(|part| part.range.contains(&at)).unwrap().factor;
                    assert_eq!([factor(module.a_offset), factor(module.b_offset)], [1.0, loraplus_lr_ratio]);
                }
                let in_8bit = |part: &&Part| matches!(part.moments, Place::EightBit { .. });
                let blocks: usize = plan.parts.iter().filter(in_8bit).map(|part| part.range.len().div_ceil(256)).sum();
                assert_eq!(plan.scales, blocks);
                assert_eq!(plan.codes > 0, optim == Optim::AdamW8bit);
            }
        }
    }

    #[test]
    fn names_are_transformers() {
        assert_eq!("adamw_torch_fused".parse::<Optim>().unwrap(), Optim::AdamW);
        assert_eq!("adamw_8bit".parse::<Optim>().unwrap(), Optim::AdamW8bit);
        assert!("adafactor".parse::<Optim>().unwrap_err().message.contains("`adafactor`; expected adamw_torch"));
    }
}
