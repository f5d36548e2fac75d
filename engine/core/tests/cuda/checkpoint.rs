//! Runs on the GPU that are cut and gone on with, through files: the same numbers, bit for bit.

use std::sync::Arc;

use luthier_core::model::BaseModel;
use luthier_core::ops::Ops;
use luthier_core::ops::cuda::{CudaOps, NumberType};
use luthier_core::train::{LossScaling, Optim, Recompute, TrainConfig};
use luthier_core::{StoredType, WeightStorage};

use crate::compare::open;
use crate::random_model::{RandomModel, examples, settings};
use crate::shared_checkpoint::{Case, Folder, finish};

const VOCABULARY: usize = 512;

/// Two epochs of eight examples in micro-batches of three, in groups of two and a short one; an evaluation after each step.
fn case(kind: NumberType, change: impl FnOnce(&mut TrainConfig)) -> Case<CudaOps> {
    let ops = Arc::new(open(kind));
    let model = RandomModel::new([2, 4, 2, 64, 256, 512, VOCABULARY], true, StoredType::BF16, StoredType::BF16);
    let base = Arc::new(BaseModel::load(&*ops, &model, WeightStorage::Nf4 { double_quant: true }).unwrap());
    let mut config = TrainConfig {
        gradient_accumulation_steps: 2,
        num_train_epochs: 2.0,
        eval_steps: Some(1),
        load_best_model_at_end: true,
        ..settings(16, 3, 2, Recompute::Layers(1))
    };
    config.lora.lora_dropout = 0.1;
    change(&mut config);
    Case {
        ops,
        base,
        config,
        train: examples(&[60, 33, 47, 20, 51, 64, 12, 40], 9, VOCABULARY),
        evaluation: Some(examples(&[30, 44, 21], 9, VOCABULARY)),
        initial: None,
    }
}

/// Cut at every micro-batch and evaluation batch.
fn cut(kind: NumberType, change: impl FnOnce(&mut TrainConfig)) {
    let case = case(kind, change);
    let (_, cuts) = case.cut_everywhere();
    // A beginning and an end, three micro-batches an epoch, five evaluations of two batches.
    assert_eq!(cuts, 2 + 2 * 3 + 5 * 2);
    let folder = Folder::new();
    let environment = case.ops.environment();
    assert!(environment.contains_key("gpu") && environment.contains_key("cublaslt"), "{environment:?}");
    case.saved_after(7, &folder.0);
    assert!(case.resumed(&folder.0).unwrap().resumed().unwrap().differences.is_empty());
}

#[test]
fn a_run_in_bf16_over_nf4_with_moments_in_8_bits() {
    cut(NumberType::BF16, |config| config.optim = Optim::AdamW8bit);
}

#[test]
fn a_run_in_f16_with_a_scaled_loss() {
    cut(NumberType::F16, |config| {
        config.loss_scaling = Some(LossScaling { growth_interval: 2, ..LossScaling::default() });
        config.neftune_noise_alpha = 5.0;
    });
}

#[test]
fn a_run_in_f32() {
    cut(NumberType::F32, |_| {});
}

/// How many blocks are recomputed follows from the memory that is free, and is no part of a checkpoint.
#[test]
fn a_run_that_goes_on_with_other_blocks_recomputed() {
    let kept = case(NumberType::BF16, |config| config.recompute_layers = Recompute::Layers(0));
    let recomputed = case(NumberType::BF16, |config| {
        config.recompute_layers = Recompute::All;
        config.offload_activations = true;
    });
    let (whole, folder) = (finish(kept.trainer()), Folder::new());
    kept.saved_after(6, &folder.0);
    let rest = finish(recomputed.resumed(&folder.0).unwrap());
    assert!(whole.events.ends_with(&rest.events) && rest.events.len() > 4);
    assert!(rest.adapter == whole.adapter);
}
