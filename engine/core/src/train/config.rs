//! Settings of a run.

use std::str::FromStr;

use super::best_model::BestModelMetric;
use super::loss_normalization::LossNormalization;
use super::loss_scale::LossScaling;
use super::optimizer::Optim;
use super::scheduler_type::LrSchedulerType;
use crate::error::{EngineError, Result};
use crate::lora::LoraConfig;

/// Of how many blocks, the first ones, the backward pass computes activations again instead of keeping them: less memory, more time, the same
/// numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recompute {
    /// As few as fit into the memory that is free.
    #[default]
    Auto,
    /// So many. More than there are: of all.
    Layers(usize),
    All,
}

impl FromStr for Recompute {
    type Err = EngineError;

    /// `auto`, `all` or a number. `INVALID_ARGUMENT` for anything else.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "all" => Ok(Self::All),
            number => number.parse().map(Self::Layers).map_err(|_| {
                EngineError::invalid(format!("recompute_layers is `{text}`; expected auto, all or a number of layers"))
            }),
        }
    }
}

/// How to train. Field for field the `TrainingConfig` of `src/engine/engine.ts`; names and meanings are those of transformers'
/// `TrainingArguments`, and so are the defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainConfig {
    /// Where training starts from an existing adapter, only dropout and seed are looked at.
    pub lora: LoraConfig,
    pub optim: Optim,
    pub learning_rate: f64,
    /// Times the learning rate: that of every B (LoRA+). 1: off.
    pub loraplus_lr_ratio: f64,
    pub lr_scheduler_type: LrSchedulerType,
    /// Steps; below 1: a share of all steps, rounded up.
    pub warmup_steps: f64,
    /// Of every matrix: none of an adapter's names is among those that Trainer leaves out (biases and norms).
    pub weight_decay: f64,
    pub adam_beta1: f64,
    pub adam_beta2: f64,
    pub adam_epsilon: f64,
    /// Global 2-norm that gradients are clipped to; 0: off.
    pub max_grad_norm: f64,
    /// Share of the goal that is spread over the vocabulary, in training and evaluation; 0: off.
    pub label_smoothing_factor: f64,
    /// Noise on the embeddings in training (NEFTune); 0: off.
    pub neftune_noise_alpha: f64,
    pub loss_normalization: LossNormalization,
    /// Devices that share every step, each with a micro-batch of its own; set by what starts the run.
    pub world_size: usize,
    /// Of `loss_normalization: tokens`: the label tokens of all devices, not the mean over the devices of what each has by its own.
    pub average_tokens_across_devices: bool,
    pub per_device_train_batch_size: usize,
    pub gradient_accumulation_steps: usize,
    pub num_train_epochs: f64,
    /// Overrides the epochs.
    pub max_steps: Option<u64>,
    pub per_device_eval_batch_size: usize,
    /// Evaluate every n steps; none: at each epoch's end.
    pub eval_steps: Option<u64>,
    /// What says which evaluation was the best.
    pub metric_for_best_model: BestModelMetric,
    /// The run's result is the adapter of the best evaluation, not that of the last step.
    pub load_best_model_at_end: bool,
    /// Evaluations in a row without an improvement after which the run ends; none: never.
    pub early_stopping_patience: Option<u64>,
    /// An improvement must be larger.
    pub early_stopping_threshold: f64,
    /// Steps of the run that may be skipped because the loss or the gradients are no finite numbers; the next one is an error. Overflows that
    /// `loss_scaling` deals with do not count.
    pub max_non_finite_steps: u64,
    /// A checkpoint is due every so many steps, after the step's evaluation; none: only when asked for.
    pub save_steps: Option<u64>,
    /// torch's order from `data_seed` + epoch; otherwise file order.
    pub shuffle: bool,
    pub data_seed: u64,
    /// Micro-batches of examples of about equal lengths, as transformers' LengthGroupedSampler. Not without `shuffle`.
    pub group_by_length: bool,
    /// Whole examples are packed into sequences of at most so many tokens, which are what micro-batches count; attention stays within each
    /// example. None: a sequence is an example. Not with `group_by_length`.
    pub packing_length: Option<usize>,
    pub recompute_layers: Recompute,
    /// The inputs of recomputed blocks, and what takes longest to compute again, wait outside the device's memory, a GPU's in locked memory of
    /// the host: less memory of the device, the same numbers. The processor has one memory and gains nothing.
    pub offload_activations: bool,
    /// For devices that compute in f16: a step whose gradients overflow is skipped. None: such a step is an error.
    pub loss_scaling: Option<LossScaling>,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            lora: LoraConfig::default(),
            optim: Optim::default(),
            learning_rate: 5e-5,
            loraplus_lr_ratio: 1.0,
            lr_scheduler_type: LrSchedulerType::Linear,
            warmup_steps: 0.0,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            label_smoothing_factor: 0.0,
            neftune_noise_alpha: 0.0,
            loss_normalization: LossNormalization::default(),
            world_size: 1,
            average_tokens_across_devices: true,
            per_device_train_batch_size: 8,
            gradient_accumulation_steps: 1,
            num_train_epochs: 3.0,
            max_steps: None,
            per_device_eval_batch_size: 8,
            eval_steps: None,
            metric_for_best_model: BestModelMetric::default(),
            load_best_model_at_end: false,
            early_stopping_patience: None,
            early_stopping_threshold: 0.0,
            max_non_finite_steps: 0,
            save_steps: None,
            shuffle: true,
            data_seed: 42,
            group_by_length: false,
            packing_length: None,
            recompute_layers: Recompute::Auto,
            offload_activations: false,
            loss_scaling: None,
        }
    }
}

impl TrainConfig {
    /// `INVALID_ARGUMENT` for a value that cannot be worked with, by name.
    pub fn validate(&self) -> Result<()> {
        let not_negative = [
            ("learning_rate", self.learning_rate),
            ("warmup_steps", self.warmup_steps),
            ("weight_decay", self.weight_decay),
            ("max_grad_norm", self.max_grad_norm),
            ("neftune_noise_alpha", self.neftune_noise_alpha),
            ("early_stopping_threshold", self.early_stopping_threshold),
        ];
        for (name, value) in not_negative {
            if !(value.is_finite() && value >= 0.0) {
                return Err(EngineError::invalid(format!("{name} is {value}; expected a finite number of at least 0")));
            }
        }
        for (name, value) in [
            ("adam_beta1", self.adam_beta1),
            ("adam_beta2", self.adam_beta2),
            ("lora_dropout", self.lora.lora_dropout),
            ("label_smoothing_factor", self.label_smoothing_factor),
        ] {
            if !(0.0..1.0).contains(&value) {
                return Err(EngineError::invalid(format!("{name} is {value}; expected at least 0 and below 1")));
            }
        }
        let positive = [
            ("adam_epsilon", self.adam_epsilon),
            ("num_train_epochs", self.num_train_epochs),
            ("loraplus_lr_ratio", self.loraplus_lr_ratio),
        ];
        for (name, value) in positive {
            if !(value.is_finite() && value > 0.0) {
                return Err(EngineError::invalid(format!("{name} is {value}; expected a finite number above 0")));
            }
        }
        let counts = [
            ("world_size", Some(self.world_size as u64)),
            ("per_device_train_batch_size", Some(self.per_device_train_batch_size as u64)),
            ("gradient_accumulation_steps", Some(self.gradient_accumulation_steps as u64)),
            ("per_device_eval_batch_size", Some(self.per_device_eval_batch_size as u64)),
            ("max_steps", self.max_steps),
            ("eval_steps", self.eval_steps),
            ("save_steps", self.save_steps),
            ("packing_length", self.packing_length.map(|length| length as u64)),
            ("early_stopping_patience", self.early_stopping_patience),
        ];
        if self.group_by_length && (!self.shuffle || self.packing_length.is_some()) {
            return Err(EngineError::invalid(
                "group_by_length is on; expected shuffle with it, whose order it sorts in parts, and no packing",
            ));
        }
        match counts.iter().find(|(_, count)| *count == Some(0)) {
            Some((name, _)) => Err(EngineError::invalid(format!("{name} is 0; expected at least 1"))),
            None => self.loss_scaling.map_or(Ok(()), |scaling| scaling.validate()),
        }?;
        if self.early_stopping_threshold > 0.0 && self.early_stopping_patience.is_none() {
            return Err(EngineError::invalid(format!(
                "early_stopping_threshold is {}; expected 0 without early_stopping_patience",
                self.early_stopping_threshold
            )));
        }
        self.lr_scheduler_type.check_rate(self.learning_rate)
    }

    /// `INVALID_ARGUMENT` for a setting that needs evaluations, where there are none.
    pub(super) fn check_evaluation(&self, is_evaluated: bool) -> Result<()> {
        let needing = [
            ("load_best_model_at_end", self.load_best_model_at_end),
            ("early_stopping_patience", self.early_stopping_patience.is_some()),
        ];
        match needing.iter().find(|(_, asked)| *asked && !is_evaluated) {
            Some((name, _)) => Err(EngineError::invalid(format!("{name} needs evaluation examples; found none"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::error::ErrorCode;

    /// transformers' defaults, with batches of one.
    pub fn config() -> TrainConfig {
        TrainConfig {
            lora: LoraConfig { r: 2, lora_alpha: 4.0, seed: 1, ..LoraConfig::default() },
            per_device_train_batch_size: 1,
            per_device_eval_batch_size: 1,
            ..TrainConfig::default()
        }
    }

    #[test]
    fn what_is_recomputed_is_read_by_name_or_number() {
        assert_eq!("auto".parse::<Recompute>().unwrap(), Recompute::Auto);
        assert_eq!("all".parse::<Recompute>().unwrap(), Recompute::All);
        assert_eq!("12".parse::<Recompute>().unwrap(), Recompute::Layers(12));
        for wrong in ["", "-1", "half", "1.5"] {
            assert_eq!(wrong.parse::<Recompute>().unwrap_err().code, ErrorCode::InvalidArgument, "{wrong}");
        }
    }

    #[test]
    fn values_that_cannot_be_worked_with_are_refused_by_name() {
        assert!(config().validate().is_ok());
        assert!(TrainConfig { learning_rate: 0.0, max_grad_norm: 0.0, adam_beta1: 0.0, ..config() }.validate().is_ok());
        let scaling = LossScaling::default();
        let cases = [
            ("learning_rate", TrainConfig { learning_rate: f64::NAN, ..config() }),
            ("learning_rate", TrainConfig { learning_rate: -1e-4, ..config() }),
            ("learning_rate", TrainConfig { learning_rate: f64::INFINITY, ..config() }),
            ("warmup_steps", TrainConfig { warmup_steps: -1.0, ..config() }),
            ("weight_decay", TrainConfig { weight_decay: f64::NAN, ..config() }),
            ("adam_beta1", TrainConfig { adam_beta1: 1.0, ..config() }),
            ("adam_beta2", TrainConfig { adam_beta2: -0.1, ..config() }),
            ("adam_beta2", TrainConfig { adam_beta2: f64::NAN, ..config() }),
            ("lora_dropout", TrainConfig { lora: LoraConfig { lora_dropout: 1.0, ..config().lora }, ..config() }),
            ("lora_dropout", TrainConfig { lora: LoraConfig { lora_dropout: -0.1, ..config().lora }, ..config() }),
            ("lora_dropout", TrainConfig { lora: LoraConfig { lora_dropout: f64::NAN, ..config().lora }, ..config() }),
            ("adam_epsilon", TrainConfig { adam_epsilon: 0.0, ..config() }),
            ("label_smoothing_factor", TrainConfig { label_smoothing_factor: 1.0, ..config() }),
            ("neftune_noise_alpha", TrainConfig { neftune_noise_alpha: -5.0, ..config() }),
            ("loraplus_lr_ratio", TrainConfig { loraplus_lr_ratio: 0.0, ..config() }),
            ("max_grad_norm", TrainConfig { max_grad_norm: -1.0, ..config() }),
            ("per_device_train_batch_size", TrainConfig { per_device_train_batch_size: 0, ..config() }),
            ("gradient_accumulation_steps", TrainConfig { gradient_accumulation_steps: 0, ..config() }),
            ("num_train_epochs", TrainConfig { num_train_epochs: 0.0, ..config() }),
            ("max_steps", TrainConfig { max_steps: Some(0), ..config() }),
            ("per_device_eval_batch_size", TrainConfig { per_device_eval_batch_size: 0, ..config() }),
            ("eval_steps", TrainConfig { eval_steps: Some(0), ..config() }),
            ("save_steps", TrainConfig { save_steps: Some(0), ..config() }),
            ("packing_length", TrainConfig { packing_length: Some(0), ..config() }),
            ("group_by_length", TrainConfig { group_by_length: true, shuffle: false, ..config() }),
            ("group_by_length", TrainConfig { group_by_length: true, packing_length: Some(8), ..config() }),
            ("early_stopping_patience", TrainConfig { early_stopping_patience: Some(0), ..config() }),
            ("early_stopping_threshold", TrainConfig { early_stopping_threshold: 0.1, ..config() }),
            (
                "lr_end",
                TrainConfig { lr_scheduler_type: LrSchedulerType::Polynomial { lr_end: 1.0, power: 1.0 }, ..config() },
            ),
            (
                "initial_scale",
                TrainConfig { loss_scaling: Some(LossScaling { initial_scale: -1.0, ..scaling }), ..config() },
            ),
        ];
        for (name, config) in cases {
            let error = config.validate().unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidArgument);
            assert!(error.message.starts_with(name) && error.message.contains("expected"), "{error}");
        }
    }
}
