//! One setting after the other beside transformers' Trainer: the files of `test/parity/golden/trainer`, which
//! `test/parity/make_trainer_goldens.py` writes.

use std::sync::Arc;

use luthier_core::lora::LoraConfig;
use luthier_core::lora::peft::PeftAdapter;
use luthier_core::model::{Examples, TokenExamples};
use luthier_core::ops::Ops;
use luthier_core::train::{
    EvaluationResult, LrSchedulerKwargs, LrSchedulerType, Progress, Recompute, TrainConfig, Trainer, TrainingEvent,
    TrainingStep,
};
use serde_json::Value;

use crate::device::on_device;
use crate::golden::{Golden, close};

/// What make_trainer_goldens.py calls SETTINGS, and its seed.
fn settings() -> TrainConfig {
    TrainConfig {
        learning_rate: 2e-3,
        per_device_train_batch_size: 4,
        per_device_eval_batch_size: 3,
        max_steps: Some(50),
        recompute_layers: Recompute::Layers(0),
        ..TrainConfig::default()
    }
}

fn kwargs(found: &Value) -> LrSchedulerKwargs {
    let mut kwargs = LrSchedulerKwargs::default();
    for (name, value) in found.as_object().unwrap() {
        let number = value.as_f64();
        let text = value.as_str().map(str::to_owned);
        match name.as_str() {
            "num_cycles" => kwargs.num_cycles = number,
            "power" => kwargs.power = number,
            "lr_end" => kwargs.lr_end = number,
            "timescale" => kwargs.timescale = number,
            "min_lr" => kwargs.min_lr = number,
            "min_lr_rate" => kwargs.min_lr_rate = number,
            "warmup_lr_rate" => kwargs.warmup_lr_rate = number,
            "num_decay_steps" => kwargs.num_decay_steps = value.as_u64(),
            "num_stable_steps" => kwargs.num_stable_steps = value.as_u64(),
            "warmup_type" => kwargs.warmup_type = text,
            "decay_type" => kwargs.decay_type = text,
            "min_lr_ratio" => kwargs.min_lr_ratio = number,
            other => panic!("lr_scheduler_kwargs has `{other}`"),
        }
    }
    kwargs
}

/// A case's settings; nothing that it names is left out.
fn config(case: &Value) -> TrainConfig {
    let mut config = settings();
    for (name, value) in case.as_object().unwrap() {
        let number = || value.as_f64().unwrap();
        let count = || value.as_u64().unwrap();
        let text = || value.as_str().unwrap();
        match name.as_str() {
            "learning_rate" => config.learning_rate = number(),
            "lr_scheduler_type" => {
                config.lr_scheduler_type = LrSchedulerType::new(text(), &kwargs(&case["lr_scheduler_kwargs"])).unwrap();
            }
            "lr_scheduler_kwargs" => assert!(case["lr_scheduler_type"].is_string()),
            "warmup_steps" => config.warmup_steps = number(),
            "weight_decay" => config.weight_decay = number(),
            "adam_beta1" => config.adam_beta1 = number(),
            "adam_beta2" => config.adam_beta2 = number(),
            "adam_epsilon" => config.adam_epsilon = number(),
            "max_grad_norm" => config.max_grad_norm = number(),
            "per_device_train_batch_size" => config.per_device_train_batch_size = count() as usize,
            "gradient_accumulation_steps" => config.gradient_accumulation_steps = count() as usize,
            "max_steps" => config.max_steps = value.as_u64(),
            "loss_normalization" => config.loss_normalization = text().parse().unwrap(),
            "eval_strategy" => assert!(["steps", "epoch"].contains(&text())),
            "eval_steps" => config.eval_steps = value.as_u64(),
            "load_best_model_at_end" => config.load_best_model_at_end = value.as_bool().unwrap(),
            "early_stopping_patience" => config.early_stopping_patience = Some(count()),
            "early_stopping_threshold" => config.early_stopping_threshold = number(),
            "label_smoothing_factor" => config.label_smoothing_factor = number(),
            "loraplus_lr_ratio" => config.loraplus_lr_ratio = number(),
            "optim" => config.optim = text().parse().unwrap(),
            "lora" => {
                config.lora = LoraConfig {
                    r: value["r"].as_u64().unwrap() as usize,
                    lora_alpha: value["lora_alpha"].as_f64().unwrap(),
                    use_rslora: value["use_rslora"].as_bool().unwrap(),
                    ..LoraConfig::default()
                };
            }
            // Of the data.
            "seen" => {}
            other => panic!("the case has `{other}`"),
        }
    }
    config
}

/// `seen` training examples, then the evaluation examples.
fn held_out(golden: &Golden, seen: usize) -> TokenExamples {
    let (train, mut examples) = (golden.train(), TokenExamples { offsets: vec![0], ..TokenExamples::default() });
    let evaluation = golden.evaluation();
    for (from, index) in
        (0..seen).map(|index| (&train, index)).chain((0..evaluation.len()).map(|index| (&evaluation, index)))
    {
        let (ids, labels) = from.example(index);
        examples.input_ids.extend(ids);
        examples.labels.extend(labels);
        examples.offsets.push(examples.input_ids.len() as u32);
    }
    examples
}

struct Run {
    steps: Vec<TrainingStep>,
    /// With the adapter of that moment.
    evaluations: Vec<(EvaluationResult, PeftAdapter)>,
    result: PeftAdapter,
}

fn run<O: Ops>(ops: Arc<O>, golden: &Golden, case: &Value) -> Run {
    let base = golden.model(&*ops);
    let evaluation = case.get("eval_strategy").map(|_| held_out(golden, case["seen"].as_u64().unwrap_or(0) as usize));
    let evaluation = evaluation.map(|found| Box::new(found) as Box<dyn Examples>);
    let initial = case.get("lora").is_none().then(|| golden.adapter("init_adapter"));
    let mut trainer = Trainer::new(ops, base, config(case), golden.train(), evaluation, initial).unwrap();
    let (mut steps, mut evaluations) = (Vec::new(), Vec::new());
    loop {
        match trainer.advance().unwrap() {
            Progress::Event(TrainingEvent::Step(step)) => steps.push(step),
            Progress::Event(TrainingEvent::Evaluation(result)) => {
                evaluations.push((result, trainer.adapter().unwrap()));
            }
            Progress::Event(TrainingEvent::Started { .. }) | Progress::Pending | Progress::CheckpointDue => {}
            Progress::Event(TrainingEvent::Finished) => break,
            Progress::Finished => panic!("the run ends with an event"),
        }
    }
    Run { steps, evaluations, result: trainer.adapter().unwrap() }
}

/// Loss and gradient norm of every step within `tolerance`, learning rates within 1e-12.
fn curve<O: Ops>(ops: Arc<O>, name: &str, tolerance: f64) -> (Run, Value) {
    let golden = Golden::open("tied");
    let path = golden.folder.join(format!("../trainer/{name}.json"));
    let expected: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let run = run(ops, &golden, &expected["config"]);
    let steps = expected["curve"].as_array().unwrap();
    assert_eq!(run.steps.len(), steps.len());
    for (step, expected) in run.steps.iter().zip(steps) {
        let at = step.global_step;
        let number = |index: usize| expected[index].as_f64().unwrap();
        close(&format!("{name}, step {at}: loss"), step.loss, number(0), tolerance);
        close(&format!("{name}, step {at}: grad_norm"), step.grad_norm, number(1), tolerance);
        close(&format!("{name}, step {at}: learning_rate"), step.learning_rate, number(2), 1e-12);
    }
    (run, expected)
}

fn curves<O: Ops>(ops: Arc<O>, names: &[&str]) {
    for name in names {
        curve(ops.clone(), name, 1e-5);
    }
}

#[test]
fn schedules() {
    on_device!(curves(&[
        "linear",
        "cosine",
        "cosine_cycles",
        "cosine_with_restarts",
        "cosine_with_min_lr",
        "cosine_warmup_with_min_lr",
        "constant",
        "constant_with_warmup",
        "polynomial",
        "inverse_sqrt",
        "inverse_sqrt_timescale",
        "warmup_stable_decay",
        "warmup_stable_decay_shapes",
    ]));
}

#[test]
fn short_groups_over_three_epochs_and_means_of_micro_batches() {
    on_device!(curves(&["accumulation", "microbatch_mean"]));
}

#[test]
fn weight_decay_clipping_and_betas() {
    on_device!(curves(&["weight_decay", "clip", "no_clip", "betas"]));
}

/// Both sides draw the adapter from the seed.
#[test]
fn new_adapters() {
    on_device!(curves(&["seed", "rslora"]));
}

#[test]
fn smoothed_labels() {
    on_device!(curves(&["label_smoothing", "label_smoothing_microbatch_mean"]));
}

#[test]
fn rates_of_lora_plus() {
    on_device!(curves(&["loraplus"]));
}

/// A gradient's last digit can move a moment across the border between two codes, so that runs that round differently part: within 1e-4 here.
/// Beside equal gradients every code is equal; see `optimizer`.
fn curves_in_8_bits<O: Ops>(ops: Arc<O>) {
    for name in ["adamw_8bit", "adamw_8bit_loraplus"] {
        curve(ops.clone(), name, 1e-4);
    }
}

#[test]
fn moments_in_8_bits() {
    on_device!(curves_in_8_bits());
}

/// The decisions are Trainer's, and the run's result is the adapter of the best evaluation.
fn kept<O: Ops>(ops: Arc<O>, name: &str) {
    let (run, expected) = curve(ops, name, 1e-5);
    let ((first, _), later) = run.evaluations.split_first().unwrap();
    assert!(first.global_step == 0 && !first.best && !first.stops);
    let evaluations = expected["evaluations"].as_array().unwrap();
    assert_eq!(later.len(), evaluations.len());
    for ((result, _), expected) in later.iter().zip(evaluations) {
        assert_eq!(result.global_step, expected[0].as_u64().unwrap());
        let what = format!("{name}: eval_loss at {}", result.global_step);
        close(&what, result.trainer_loss, expected[1].as_f64().unwrap(), 1e-5);
    }
    let (best, adapter) = later.iter().rfind(|(result, _)| result.best).unwrap();
    assert_eq!(best.global_step, expected["best_global_step"].as_u64().unwrap());
    assert_eq!(run.steps.last().unwrap().global_step, expected["global_step"].as_u64().unwrap());
    assert_eq!(later.last().unwrap().0.stops, expected["global_step"].as_u64().unwrap() < 50);
    assert_eq!(&run.result, adapter);
    let (_, last) = later.last().unwrap();
    assert_eq!(best.global_step == run.steps.last().unwrap().global_step, &run.result == last);
}

#[test]
fn the_best_adapter_and_early_stopping() {
    on_device!(kept("best_model"));
    on_device!(kept("best_model_epochs"));
    on_device!(kept("early_stopping"));
}
