//! Every later number and the adapter are those of the run that was not cut, bit for bit, whatever the settings are.

use luthier_core::lora::LoraConfig;
use luthier_core::model::Examples;
use luthier_core::ops::cpu::CpuOps;
use luthier_core::random::MersenneTwister;
use luthier_core::train::{LossNormalization, LossScaling, LrSchedulerType, Optim, Recompute, TrainConfig};
use safetensors::SafeTensors;

use crate::case;
use crate::golden::Golden;
use crate::shared::{Case, Folder, Outcome, finish};

fn steps(outcome: &Outcome) -> Vec<&Vec<u64>> {
    outcome.events.iter().filter(|event| event[0] == 1).collect()
}

fn evaluations(outcome: &Outcome) -> Vec<&Vec<u64>> {
    outcome.events.iter().filter(|event| event[0] == 2).collect()
}

#[test]
fn accumulation_over_three_shuffled_epochs_with_short_groups() {
    let (whole, cuts) = case(|_| {}).cut_everywhere();
    assert_eq!((steps(&whole).len(), evaluations(&whole).len()), (9, 6));
    // A beginning and an end, 33 micro-batches, six evaluations of three batches.
    assert_eq!(cuts, 2 + 33 + 6 * 3);
}

#[test]
fn dropout_and_noise() {
    let case = case(|config| {
        config.lora.lora_dropout = 0.1;
        config.neftune_noise_alpha = 5.0;
    });
    case.cut_everywhere();
}

#[test]
fn packed_sequences() {
    let longest = Golden::open("tied").train().longest();
    let case = case(|config| config.packing_length = Some(2 * longest));
    assert!(steps(&case.cut_everywhere().0).len() > 2);
}

#[test]
fn groups_of_about_equal_lengths() {
    case(|config| config.group_by_length = true).cut_everywhere();
}

/// A's in 8 bits and B's in full precision, or both in 8 bits, with rates of their own.
#[test]
fn moments_in_8_bits_and_rates_of_lora_plus() {
    let mut case = case(|config| {
        config.optim = Optim::AdamW8bit;
        config.loraplus_lr_ratio = 16.0;
        config.num_train_epochs = 1.0;
        config.lora = LoraConfig { r: 88, lora_alpha: 16.0, seed: 5, ..LoraConfig::default() };
    });
    case.initial = None;
    case.cut_everywhere();
    let folder = Folder::new();
    case.saved_after(9, &folder.0);
    let bytes = std::fs::read(folder.0.join("state.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut names = tensors.names();
    names.sort_unstable();
    let moments = ["first", "first.codes", "first.scales", "second", "second.codes", "second.scales"];
    assert_eq!(names[names.len() - 6..], moments.map(|name| format!("moments.{name}")));
}

/// The adapter of the best evaluation is part of what is gone on with.
#[test]
fn the_best_model_and_early_stopping() {
    let case = case(|config| {
        config.learning_rate = 0.3;
        config.lr_scheduler_type = LrSchedulerType::Constant;
        config.eval_steps = Some(1);
        config.load_best_model_at_end = true;
        config.early_stopping_patience = Some(3);
        config.warmup_steps = 6.0;
    });
    let (whole, _) = case.cut_everywhere();
    let evaluations = evaluations(&whole);
    assert_eq!(evaluations.last().unwrap()[8], 1, "the run stops early");
    let best = evaluations.iter().rposition(|evaluation| evaluation[7] == 1).unwrap();
    assert!(0 < best && best < evaluations.len() - 1, "the best is neither the first nor the last");
}

#[test]
fn evaluations_at_epoch_ends_in_file_order_by_the_mean_of_micro_batches() {
    let case = case(|config| {
        config.eval_steps = None;
        config.shuffle = false;
        config.loss_normalization = LossNormalization::MicrobatchMean;
        config.label_smoothing_factor = 0.1;
        config.num_train_epochs = 2.0;
    });
    case.cut_everywhere();
}

#[test]
fn steps_that_are_skipped_because_something_is_no_number() {
    let mut case = case(|config| {
        config.learning_rate = 1e25;
        config.warmup_steps = 0.0;
        config.max_non_finite_steps = 3;
        config.max_steps = Some(4);
    });
    case.evaluation = None;
    let (whole, _) = case.cut_everywhere();
    let skipped: Vec<u64> = steps(&whole).iter().map(|step| step[9]).collect();
    assert_eq!(skipped, [0, 1, 1, 1]);
}

/// As `parity/loss_scale.rs`: the first steps overflow, later ones do not, and the scale grows.
#[test]
fn scaled_losses() {
    let mut case = case(|config| {
        let scale = (1u128 << 124) as f64;
        config.loss_scaling = Some(LossScaling { initial_scale: scale, growth_interval: 3, ..LossScaling::default() });
        config.max_steps = Some(10);
    });
    for matrices in case.initial.as_mut().unwrap().modules.values_mut() {
        matrices.a.iter_mut().for_each(|value| *value *= 256.0);
        matrices.b.iter_mut().for_each(|value| *value /= 256.0);
    }
    let (whole, _) = case.cut_everywhere();
    let skipped = steps(&whole).iter().filter(|step| step[9] == 1).count();
    assert!(0 < skipped && skipped < 8, "{skipped} steps were skipped");
}

#[test]
fn runs_that_are_cut_often() {
    let case = case(|config| {
        config.lora.lora_dropout = 0.1;
        config.load_best_model_at_end = true;
    });
    let whole = finish(case.trainer());
    let mut random = MersenneTwister::new(11);
    let mut pieces = |most: u32| (random.next_u32() % most) as usize;
    for _ in 0..8 {
        let pieces = [pieces(20), pieces(12), pieces(12), pieces(4)];
        assert!(case.cut_often(&pieces) == whole, "cut after {pieces:?}");
    }
}

/// How much is kept and where it waits is chosen anew.
#[test]
fn a_run_goes_on_with_other_blocks_recomputed() {
    let kept = case(|_| {});
    let recomputed = case(|config| {
        config.recompute_layers = Recompute::Layers(2);
        config.offload_activations = true;
        config.save_steps = Some(1);
    });
    let whole = finish(kept.trainer());
    let folder = Folder::new();
    kept.saved_after(12, &folder.0);
    let rest = finish(recomputed.resumed(&folder.0).unwrap());
    assert!(whole.events.ends_with(&rest.events) && rest.events.len() > 4);
    assert!(rest.adapter == whole.adapter);
}

/// In f64, too: whatever a device computes with goes through the files.
#[test]
fn in_double_precision() {
    let single = case(|config| config.num_train_epochs = 1.0);
    let ops = std::sync::Arc::new(CpuOps::<f64>::new(2));
    let Case { config, train, evaluation, initial, .. } = single;
    let config: TrainConfig = config;
    Case { base: Golden::open("tied").model(&*ops), ops, config, train, evaluation, initial }.cut_everywhere();
}
