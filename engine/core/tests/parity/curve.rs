//! A whole run beside transformers' Trainer: loss, gradient norm, learning rate, evaluations, and the adapter at the end.

use std::sync::Arc;

use luthier_core::lora::peft::PeftAdapter;
use luthier_core::model::Examples;
use luthier_core::ops::Ops;
use luthier_core::train::{Progress, Trainer, TrainingEvent};
use serde_json::Value;

use crate::device::on_device;
use crate::golden::{Golden, close};

fn number(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap()
}

/// Everything to 1e-5 relative. Returns the trained adapter.
pub fn every_step<O: Ops>(ops: Arc<O>, golden: &Golden) -> PeftAdapter {
    let base = golden.model(&*ops);
    let initial = Some(golden.adapter("init_adapter"));
    let evaluation: Option<Box<dyn Examples>> = Some(Box::new(golden.evaluation()));
    let mut trainer = Trainer::new(ops, base, golden.config(), golden.train(), evaluation, initial).unwrap();
    let mut curve = golden.expected["curve"].as_array().unwrap().iter();
    let mut evaluations = golden.expected["evaluations"].as_array().unwrap().iter();
    assert_eq!(Some(curve.len() as u64), golden.config().max_steps);
    loop {
        match trainer.advance().unwrap() {
            Progress::Event(TrainingEvent::Step(step)) => {
                let (expected, at) = (curve.next().unwrap(), step.global_step);
                close(&format!("step {at}: loss"), step.loss, number(expected, "loss"), 1e-5);
                close(&format!("step {at}: grad_norm"), step.grad_norm, number(expected, "grad_norm"), 1e-5);
                let rate = number(expected, "learning_rate");
                close(&format!("step {at}: learning_rate"), step.learning_rate, rate, 1e-12);
            }
            Progress::Event(TrainingEvent::Evaluation(result)) => {
                let (expected, at) = (evaluations.next().unwrap(), result.global_step);
                assert_eq!(at, expected["global_step"].as_u64().unwrap());
                assert_eq!(result.label_tokens, expected["label_tokens"].as_u64().unwrap());
                close(&format!("evaluation at {at}: loss"), result.loss, number(expected, "loss"), 1e-5);
                let trainer_loss = number(expected, "trainer_loss");
                close(&format!("evaluation at {at}: trainer_loss"), result.trainer_loss, trainer_loss, 1e-5);
            }
            Progress::Event(TrainingEvent::Started { .. }) | Progress::Pending | Progress::CheckpointDue => {}
            Progress::Event(TrainingEvent::Finished) => break,
            Progress::Finished => panic!("the run ends with an event"),
        }
    }
    assert!(curve.next().is_none() && evaluations.next().is_none());
    trainer.adapter().unwrap()
}

/// The curve, and every matrix of the adapter to 1e-4 of its largest number.
fn whole_run<O: Ops>(ops: Arc<O>, case: &str) {
    let golden = Golden::open(case);
    let trained = every_step(ops, &golden);
    let expected = golden.adapter("trained_adapter");
    assert!(expected.modules.keys().eq(trained.modules.keys()));
    for (path, expected) in &expected.modules {
        let found = &trained.modules[path];
        for (half, found, expected) in [("A", &found.a, &expected.a), ("B", &found.b, &expected.b)] {
            let difference = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
            assert!(difference <= 1e-4 * largest, "{path} {half}: off by {difference:e} of {largest}");
        }
    }
}

#[test]
fn with_grouped_heads_and_tied_embeddings() {
    on_device!(whole_run("tied"));
}

#[test]
fn with_a_sliding_window() {
    on_device!(whole_run("sliding"));
}

#[test]
fn with_an_output_layer_of_its_own_and_rank_stabilised_scale() {
    on_device!(whole_run("untied"));
}
