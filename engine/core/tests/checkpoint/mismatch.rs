//! Runs that are others than the one the checkpoint was taken of.

use std::sync::Arc;

use luthier_core::ErrorCode;
use luthier_core::lora::LoraConfig;
use luthier_core::ops::cpu::CpuOps;
use luthier_core::train::checkpoint::{Checkpoint, ModelIdentity};
use luthier_core::train::{LossNormalization, LossScaling, LrSchedulerType, Optim, TrainConfig, Trainer};

use crate::case;
use crate::golden::Golden;
use crate::shared::{Case, Folder};

/// The message of the refusal.
fn refusal(other: &Case<CpuOps<f32>>, folder: &Folder) -> String {
    let error = other.resumed(&folder.0).err().expect("a refusal");
    assert_eq!(error.code, ErrorCode::CheckpointMismatch, "{error}");
    error.message
}

#[test]
fn a_setting_that_changes_numbers_is_named_with_both_values() {
    let folder = Folder::new();
    case(|_| {}).saved_after(9, &folder.0);
    type Change = fn(&mut TrainConfig);
    let changes: [(&str, &str, &str, Change); 23] = [
        ("lora_dropout", "0", "0.1", |config| config.lora.lora_dropout = 0.1),
        ("seed", "0", "7", |config| config.lora.seed = 7),
        ("optim", "AdamW", "AdamW8bit", |config| config.optim = Optim::AdamW8bit),
        ("learning_rate", "0.002", "0.001", |config| config.learning_rate = 0.001),
        ("loraplus_lr_ratio", "1", "16", |config| config.loraplus_lr_ratio = 16.0),
        ("lr_scheduler_type", "Linear", "Constant", |config| config.lr_scheduler_type = LrSchedulerType::Constant),
        ("warmup_steps", "2", "3", |config| config.warmup_steps = 3.0),
        ("weight_decay", "0.01", "0", |config| config.weight_decay = 0.0),
        ("adam_beta2", "0.999", "0.95", |config| config.adam_beta2 = 0.95),
        ("max_grad_norm", "1", "0", |config| config.max_grad_norm = 0.0),
        ("label_smoothing_factor", "0", "0.1", |config| config.label_smoothing_factor = 0.1),
        ("neftune_noise_alpha", "0", "5", |config| config.neftune_noise_alpha = 5.0),
        ("loss_normalization", "Tokens", "MicrobatchMean", |config| {
            config.loss_normalization = LossNormalization::MicrobatchMean;
        }),
        ("average_tokens_across_devices", "true", "false", |config| config.average_tokens_across_devices = false),
        ("per_device_train_batch_size", "2", "4", |config| config.per_device_train_batch_size = 4),
        ("gradient_accumulation_steps", "4", "2", |config| config.gradient_accumulation_steps = 2),
        ("num_train_epochs", "3", "4", |config| config.num_train_epochs = 4.0),
        ("max_steps", "none", "100", |config| config.max_steps = Some(100)),
        ("eval_steps", "2", "none", |config| config.eval_steps = None),
        ("load_best_model_at_end", "false", "true", |config| config.load_best_model_at_end = true),
        ("shuffle", "true", "false", |config| config.shuffle = false),
        ("data_seed", "42", "43", |config| config.data_seed = 43),
        ("loss_scaling", "none", "LossScaling", |config| config.loss_scaling = Some(LossScaling::default())),
    ];
    for (name, expected, found, change) in changes {
        let message = refusal(&case(change), &folder);
        let text = format!("{name}: the checkpoint was taken with {expected}; found {found}");
        assert!(message.starts_with(&text) && message.contains("start a new run"), "{message}");
    }
}

#[test]
fn other_examples_are_other_runs() {
    let folder = Folder::new();
    case(|_| {}).saved_after(9, &folder.0);
    let mut other = case(|_| {});
    let last = other.train.labels.len() - 1;
    other.train.labels[last] = 7;
    assert!(refusal(&other, &folder).starts_with("training data: the checkpoint was taken with 22 examples"));
    let mut other = case(|_| {});
    other.evaluation.as_mut().unwrap().input_ids[0] ^= 1;
    assert!(refusal(&other, &folder).starts_with("evaluation data: the checkpoint was taken with 7 examples"));
    other.evaluation = None;
    assert!(refusal(&other, &folder).contains("found none"));
}

#[test]
fn another_adapter_or_model_is_another_run() {
    let folder = Folder::new();
    case(|_| {}).saved_after(9, &folder.0);
    let mut other = case(|config| config.lora = LoraConfig { r: 2, seed: 0, ..LoraConfig::default() });
    other.initial = None;
    let message = refusal(&other, &folder);
    assert!(
        message.starts_with("the adapter's model.layers.0.mlp.") && message.contains("with r 4, scale 2"),
        "{message}"
    );

    let model =
        |hash: &str, weights: &str| ModelIdentity { content_hash: hash.to_owned(), weights: weights.to_owned() };
    let (one, folder) = (case(|_| {}), Folder::new());
    one.trainer().of_model(model("aa", "stored")).checkpoint(None).unwrap().write(&folder.0).unwrap();
    let resume = |trainer: &mut Trainer<_>| trainer.resume(&Checkpoint::read(&folder.0).unwrap());
    resume(&mut one.trainer().of_model(model("aa", "stored"))).unwrap();
    for (other, told) in [(model("bb", "stored"), "bb held as stored"), (model("aa", "nf4"), "aa held as nf4")] {
        let error = resume(&mut one.trainer().of_model(other)).unwrap_err();
        assert_eq!(error.code, ErrorCode::CheckpointMismatch);
        assert!(
            error.message.starts_with("base model: the checkpoint was taken with aa held as stored; found"),
            "{error}"
        );
        assert!(error.message.contains(told), "{error}");
    }
}

#[test]
fn another_environment_is_told() {
    let folder = Folder::new();
    let one = case(|_| {});
    one.saved_after(9, &folder.0);
    let same = one.resumed(&folder.0).unwrap();
    let resumed = same.resumed().unwrap();
    assert!(resumed.global_step == 1 && resumed.differences.is_empty(), "{resumed:?}");
    assert!(one.trainer().resumed().is_none());
    let ops = Arc::new(CpuOps::<f32>::new(1));
    let other = Case { base: Golden::open("tied").model(&*ops), ops, ..case(|_| {}) };
    let trainer = other.resumed(&folder.0).unwrap();
    assert_eq!(trainer.resumed().unwrap().differences, ["threads: 2 when the checkpoint was taken, now 1"]);
}

/// A device with numbers of another type cannot hold them.
#[test]
fn another_type_of_numbers_is_refused() {
    let folder = Folder::new();
    let Case { config, train, evaluation, initial, .. } = case(|_| {});
    case(|_| {}).saved_after(9, &folder.0);
    let ops = Arc::new(CpuOps::<f64>::new(2));
    let other = Case { base: Golden::open("tied").model(&*ops), ops, config, train, evaluation, initial };
    let error = other.resumed(&folder.0).err().unwrap();
    assert_eq!(error.code, ErrorCode::CheckpointMismatch);
    assert!(error.message.contains("f32 as `adapter`; this run has") && error.message.contains("f64"), "{error}");
}

#[test]
fn a_run_that_has_begun_cannot_go_on_from_elsewhere() {
    let folder = Folder::new();
    let one = case(|_| {});
    one.saved_after(9, &folder.0);
    let mut trainer = one.trainer();
    trainer.advance().unwrap();
    assert_eq!(trainer.resume(&Checkpoint::read(&folder.0).unwrap()).unwrap_err().code, ErrorCode::Internal);
}
