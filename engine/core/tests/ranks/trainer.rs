//! Beside transformers' Trainer under DistributedDataParallel: the files of `test/parity/golden/ddp`, which
//! `test/parity/make_ddp_goldens.py` writes.

use luthier_core::model::{Examples, TokenExamples};
use luthier_core::train::{Recompute, TrainConfig, TrainingPlan};
use serde_json::Value;

use crate::golden::{Golden, close};
use crate::support::{chosen, finish, inputs, start};

const CASES: [&str; 6] = ["two_ranks", "uneven", "three_ranks", "four_ranks", "own_tokens", "microbatch_mean"];

/// make_trainer_goldens.py's SETTINGS and the case's; nothing that it names is left out.
fn config(case: &Value) -> TrainConfig {
    let mut config = TrainConfig {
        learning_rate: 2e-3,
        per_device_train_batch_size: 4,
        per_device_eval_batch_size: 3,
        eval_steps: Some(5),
        max_steps: Some(50),
        recompute_layers: Recompute::Layers(0),
        ..TrainConfig::default()
    };
    for (name, value) in case.as_object().unwrap() {
        let count = || value.as_u64().unwrap() as usize;
        match name.as_str() {
            "per_device_train_batch_size" => config.per_device_train_batch_size = count(),
            "per_device_eval_batch_size" => config.per_device_eval_batch_size = count(),
            "gradient_accumulation_steps" => config.gradient_accumulation_steps = count(),
            "num_train_epochs" => config.num_train_epochs = value.as_f64().unwrap(),
            "max_steps" => config.max_steps = value.as_u64(),
            "max_grad_norm" => config.max_grad_norm = value.as_f64().unwrap(),
            "weight_decay" => config.weight_decay = value.as_f64().unwrap(),
            "average_tokens_across_devices" => config.average_tokens_across_devices = value.as_bool().unwrap(),
            "loss_normalization" => config.loss_normalization = value.as_str().unwrap().parse().unwrap(),
            // Of the data.
            "seen" => {}
            other => panic!("the case has `{other}`"),
        }
    }
    config
}

fn case(golden: &Golden, name: &str) -> (Value, usize, TrainConfig, TokenExamples) {
    let path = golden.folder.join(format!("../ddp/{name}.json"));
    let expected: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let ranks = expected["world_size"].as_u64().unwrap() as usize;
    let seen = expected["config"]["seen"].as_u64().unwrap_or(0) as usize;
    let (train, evaluation) = (golden.train(), golden.evaluation());
    let mut held_out = chosen(&train, 0..seen);
    let rest = chosen(&evaluation, 0..evaluation.len());
    let before = held_out.input_ids.len() as u32;
    held_out.input_ids.extend(rest.input_ids);
    held_out.labels.extend(rest.labels);
    held_out.offsets.extend(rest.offsets[1..].iter().map(|offset| offset + before));
    let config = config(&expected["config"]);
    (expected, ranks, config, held_out)
}

#[test]
fn losses_gradients_and_evaluations() {
    let golden = Golden::open("tied");
    for name in CASES {
        let (expected, ranks, config, held_out) = case(&golden, name);
        let run =
            finish(start(&golden, ranks, &inputs(&golden, config, golden.train(), Some(held_out.clone()))).unwrap());
        let curve = expected["curve"].as_array().unwrap();
        assert_eq!(run.steps.len(), curve.len(), "{name}");
        for (step, expected) in run.steps.iter().zip(curve) {
            let at = step.global_step;
            let number = |index: usize| expected[index].as_f64().unwrap();
            close(&format!("{name}, step {at}: loss"), step.loss, number(0), 1e-5);
            close(&format!("{name}, step {at}: grad_norm"), step.grad_norm, number(1), 1e-5);
            close(&format!("{name}, step {at}: learning_rate"), step.learning_rate, number(2), 1e-12);
        }
        let evaluations = expected["evaluations"].as_array().unwrap();
        assert_eq!(run.evaluations.len(), 1 + evaluations.len(), "{name}");
        for (result, expected) in run.evaluations[1..].iter().zip(evaluations) {
            assert_eq!(result.global_step, expected[0].as_u64().unwrap());
            let what = format!("{name}: eval_loss at {}", result.global_step);
            close(&what, result.trainer_loss, expected[1].as_f64().unwrap(), 1e-5);
            assert_eq!(result.examples as usize, held_out.len());
        }
    }
}

/// Which example goes to which rank, in two epochs.
#[test]
fn examples_are_dealt_as_accelerate_deals_them() {
    let golden = Golden::open("tied");
    for name in CASES {
        let (expected, ranks, config, _) = case(&golden, name);
        let plan = TrainingPlan::new(&TrainConfig { world_size: ranks, ..config }, golden.train().lengths());
        for (epoch, dealt) in expected["order"].as_array().unwrap().iter().enumerate() {
            let order = plan.order(epoch as u64);
            for (rank, batches) in dealt.as_array().unwrap().iter().enumerate() {
                let found: Vec<&[u32]> = order.batches().skip(rank).step_by(ranks).collect();
                let batches: Vec<Vec<u32>> = serde_json::from_value(batches.clone()).unwrap();
                assert_eq!(found, batches, "{name}, epoch {epoch}, rank {rank}");
            }
        }
    }
}
