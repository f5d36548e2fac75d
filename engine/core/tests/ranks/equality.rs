//! Several ranks beside one that accumulates as many times more: the same run.

use luthier_core::model::{Examples, TokenExamples};
use luthier_core::ranks::{DEADLINE, shared_memory};
use luthier_core::train::{BestModelMetric, LossNormalization, TrainConfig};

use crate::golden::{Golden, close};
use crate::support::{Run, alone, chosen, finish, inputs, largest_difference, start, start_with};

const TOLERANCE: f64 = 1e-6;

/// 24 examples: whole rounds of 2, 3 and 4 ranks.
fn examples(golden: &Golden) -> TokenExamples {
    let train = golden.train();
    chosen(&train, (0..train.len()).chain([3, 5]))
}

fn settings(golden: &Golden, batch: usize, accumulation: usize) -> TrainConfig {
    TrainConfig {
        per_device_train_batch_size: batch,
        gradient_accumulation_steps: accumulation,
        max_steps: Some(6),
        eval_steps: Some(2),
        warmup_steps: 0.0,
        ..golden.config()
    }
}

fn same(what: &str, found: &Run, expected: &Run) {
    assert_eq!(found.steps.len(), expected.steps.len(), "{what}");
    for (found, expected) in found.steps.iter().zip(&expected.steps) {
        let what = format!("{what}, step {}", found.global_step);
        close(&format!("{what}: loss"), found.loss, expected.loss, TOLERANCE);
        close(&format!("{what}: grad_norm"), found.grad_norm, expected.grad_norm, 10.0 * TOLERANCE);
        let counts = |step: &luthier_core::train::TrainingStep| {
            (step.global_step, step.max_steps, step.tokens, step.label_tokens, step.epoch, step.learning_rate)
        };
        assert_eq!(counts(found), counts(expected), "{what}");
    }
    assert_eq!(found.evaluations.len(), expected.evaluations.len(), "{what}");
    for (found, expected) in found.evaluations.iter().zip(&expected.evaluations) {
        close(&format!("{what}: evaluation"), found.loss, expected.loss, TOLERANCE);
        assert_eq!(
            (found.global_step, found.examples, found.label_tokens, found.best, found.stops),
            (expected.global_step, expected.examples, expected.label_tokens, expected.best, expected.stops),
            "{what}"
        );
    }
    let off = largest_difference(&found.adapter, &expected.adapter);
    assert!(off <= 1e-6, "{what}: the adapters differ by {off:e}");
}

/// Runs `ranks` ranks and one with `ranks` times the accumulation.
fn beside_one(what: &str, golden: &Golden, ranks: usize, config: TrainConfig) {
    let evaluation = Some(golden.evaluation());
    let accumulation = config.gradient_accumulation_steps * ranks;
    let one = TrainConfig { gradient_accumulation_steps: accumulation, ..config.clone() };
    let expected = alone(golden, &inputs(golden, one, examples(golden), evaluation.clone()));
    let run = finish(start(golden, ranks, &inputs(golden, config, examples(golden), evaluation)).unwrap());
    assert!(run.steps.iter().all(|step| step.devices.len() == ranks));
    same(&format!("{what}, {ranks} ranks"), &run, &expected);
}

#[test]
fn ranks_equal_accumulation() {
    let golden = Golden::open("tied");
    for (ranks, batch, accumulation) in [(2, 2, 1), (2, 1, 5), (3, 2, 2), (4, 1, 1), (4, 3, 2)] {
        beside_one("plain", &golden, ranks, settings(&golden, batch, accumulation));
    }
}

#[test]
fn whatever_a_step_is_made_of() {
    let golden = Golden::open("tied");
    let base = || settings(&golden, 2, 2);
    beside_one("clipped", &golden, 2, TrainConfig { max_grad_norm: 0.1, ..base() });
    beside_one("not clipped", &golden, 2, TrainConfig { max_grad_norm: 0.0, ..base() });
    let loss_normalization = LossNormalization::MicrobatchMean;
    beside_one("means", &golden, 3, TrainConfig { loss_normalization, ..base() });
    beside_one(
        "packed",
        &golden,
        2,
        TrainConfig { packing_length: Some(48), per_device_train_batch_size: 1, ..base() },
    );
    let patience = TrainConfig {
        early_stopping_patience: Some(1),
        load_best_model_at_end: true,
        // Trainer's mean of a batch depends on what the others of its round are.
        metric_for_best_model: BestModelMetric::EvalTokenLoss,
        learning_rate: 0.05,
        eval_steps: Some(1),
        ..base()
    };
    beside_one("stopped early", &golden, 2, patience);
}

/// Masks and noise are those of the micro-batch's number in the run, whichever rank takes it.
#[test]
fn dropout_and_noise_are_drawn_by_micro_batch() {
    let golden = Golden::open("tied");
    for ranks in [2, 4] {
        let mut config = TrainConfig { neftune_noise_alpha: 5.0, ..settings(&golden, 1, 3) };
        config.lora.lora_dropout = 0.2;
        beside_one("dropout and noise", &golden, ranks, config);
    }
}

/// 22 examples by 2 ranks of 4: the last round is completed by the first examples, as a file would be that has them twice.
#[test]
fn an_uneven_epoch_goes_on_from_its_beginning() {
    let golden = Golden::open("tied");
    let train = golden.train();
    let base = TrainConfig { shuffle: false, max_steps: None, num_train_epochs: 2.0, ..settings(&golden, 4, 2) };
    let completed = chosen(&train, (0..train.len()).chain([0, 1]));
    let one = TrainConfig { gradient_accumulation_steps: 4, ..base.clone() };
    let expected = alone(&golden, &inputs(&golden, one, completed, None));
    let run = finish(start(&golden, 2, &inputs(&golden, base, train, None)).unwrap());
    same("uneven", &run, &expected);
}

/// Bit by bit, whether gradients are reduced at once or block by block during the backward pass.
#[test]
fn a_run_repeats_itself_and_buckets_change_nothing() {
    let golden = Golden::open("tied");
    let run = |bucket_len: Option<usize>| {
        let given = inputs(&golden, settings(&golden, 2, 2), golden.train(), Some(golden.evaluation()));
        let connect = shared_memory(3, bucket_len);
        let run = finish(start_with(&golden, 3, &given, &connect, DEADLINE).unwrap());
        let numbers: Vec<(f64, f64)> = run.steps.iter().map(|step| (step.loss, step.grad_norm)).collect();
        (numbers, run.evaluations, run.adapter)
    };
    let whole = run(None);
    assert_eq!(run(None), whole);
    for bucket_len in [1, 1000] {
        assert_eq!(run(Some(bucket_len)), whole, "buckets of {bucket_len}");
    }
}

#[test]
fn one_rank_is_a_run_alone() {
    let golden = Golden::open("tied");
    let given = inputs(&golden, settings(&golden, 2, 2), golden.train(), Some(golden.evaluation()));
    let (expected, run) = (alone(&golden, &given), finish(start(&golden, 1, &given).unwrap()));
    same("one rank", &run, &expected);
    assert_eq!(run.adapter, expected.adapter);
}
