//! Settings that change numbers, by name, as text.

use std::collections::BTreeMap;

use crate::lora::LoraConfig;
use crate::train::TrainConfig;

/// How many devices train together, each with a share of every step.
pub const DEVICES: &str = "devices";

/// Every setting that two runs with the same numbers must share, but for what the adapter's layout says. A new setting has to be put on one
/// side or the other here.
pub fn settings(config: &TrainConfig) -> BTreeMap<String, String> {
    let TrainConfig {
        // Of the rest, the layout.
        lora: LoraConfig { lora_dropout, seed, r: _, lora_alpha: _, targets: _, use_rslora: _ },
        optim,
        learning_rate,
        loraplus_lr_ratio,
        lr_scheduler_type,
        warmup_steps,
        weight_decay,
        adam_beta1,
        adam_beta2,
        adam_epsilon,
        max_grad_norm,
        label_smoothing_factor,
        neftune_noise_alpha,
        loss_normalization,
        per_device_train_batch_size,
        gradient_accumulation_steps,
        num_train_epochs,
        max_steps,
        per_device_eval_batch_size,
        eval_steps,
        metric_for_best_model,
        load_best_model_at_end,
        early_stopping_patience,
        early_stopping_threshold,
        max_non_finite_steps,
        save_steps: _,
        shuffle,
        data_seed,
        group_by_length,
        packing_length,
        // The same numbers; see `recomputing_changes_memory_and_nothing_else` and `layer_inputs_elsewhere_change_no_number`.
        recompute_layers: _,
        offload_activations: _,
        loss_scaling,
        average_tokens_across_devices,
        world_size,
    } = config;
    let optional = |value: &Option<u64>| value.map_or_else(|| "none".to_owned(), |value| value.to_string());
    [
        ("lora_dropout", lora_dropout.to_string()),
        ("seed", seed.to_string()),
        ("optim", format!("{optim:?}")),
        ("learning_rate", learning_rate.to_string()),
        ("loraplus_lr_ratio", loraplus_lr_ratio.to_string()),
        ("lr_scheduler_type", format!("{lr_scheduler_type:?}")),
        ("warmup_steps", warmup_steps.to_string()),
        ("weight_decay", weight_decay.to_string()),
        ("adam_beta1", adam_beta1.to_string()),
        ("adam_beta2", adam_beta2.to_string()),
        ("adam_epsilon", adam_epsilon.to_string()),
        ("max_grad_norm", max_grad_norm.to_string()),
        ("label_smoothing_factor", label_smoothing_factor.to_string()),
        ("neftune_noise_alpha", neftune_noise_alpha.to_string()),
        ("loss_normalization", format!("{loss_normalization:?}")),
        ("per_device_train_batch_size", per_device_train_batch_size.to_string()),
        ("gradient_accumulation_steps", gradient_accumulation_steps.to_string()),
        ("num_train_epochs", num_train_epochs.to_string()),
        ("max_steps", optional(max_steps)),
        ("per_device_eval_batch_size", per_device_eval_batch_size.to_string()),
        ("eval_steps", optional(eval_steps)),
        ("metric_for_best_model", format!("{metric_for_best_model:?}")),
        ("load_best_model_at_end", load_best_model_at_end.to_string()),
        ("early_stopping_patience", optional(early_stopping_patience)),
        ("early_stopping_threshold", early_stopping_threshold.to_string()),
        ("max_non_finite_steps", max_non_finite_steps.to_string()),
        ("shuffle", shuffle.to_string()),
        ("data_seed", data_seed.to_string()),
        ("group_by_length", group_by_length.to_string()),
        ("packing_length", optional(&packing_length.map(|length| length as u64))),
        ("average_tokens_across_devices", average_tokens_across_devices.to_string()),
        (DEVICES, world_size.to_string()),
        ("loss_scaling", loss_scaling.map_or_else(|| "none".to_owned(), |scaling| format!("{scaling:?}"))),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}
