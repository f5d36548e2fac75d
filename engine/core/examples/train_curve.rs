//! A run on one GPU beside the losses that a peer had: `train_curve FOLDER TYPE WEIGHTS`.
//!
//! FOLDER is what `test/parity/gpu_curve.py` writes. Prints one JSON line: the mean and the largest difference of the losses.

use std::sync::Arc;

use luthier_core::ops::cuda::{CudaOps, NumberType};
use luthier_core::train::{LossScaling, Progress, TrainConfig, Trainer, TrainingEvent};

use crate::golden::Golden;

#[path = "../tests/parity/golden.rs"]
#[expect(dead_code, reason = "the parity suite uses the rest of it")]
mod golden;

const USAGE: &str = "usage: train_curve FOLDER bf16|f16|f32 WEIGHTS";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, kind, weights] = arguments.as_slice() else { return Err(USAGE.into()) };
    let compute = match kind.as_str() {
        "bf16" => NumberType::BF16,
        "f16" => NumberType::F16,
        "f32" => NumberType::F32,
        _ => return Err(USAGE.into()),
    };
    let golden = Golden::open(&std::path::absolute(folder)?.to_string_lossy());
    let ops = Arc::new(CudaOps::open(0, compute)?);
    let base = golden.model_held(&*ops, weights.parse()?);
    let initial = Some(golden.adapter("init_adapter"));
    let loss_scaling = (compute == NumberType::F16).then(LossScaling::default);
    let config = TrainConfig { loss_scaling, ..golden.config() };
    let mut trainer = Trainer::new(ops, base, config, golden.train(), None, initial)?;
    let mut losses = Vec::new();
    loop {
        match trainer.advance()? {
            Progress::Event(TrainingEvent::Step(step)) => losses.push(step.loss),
            Progress::Event(TrainingEvent::Finished) | Progress::Finished => break,
            _ => {}
        }
    }
    let expected: Vec<f64> = serde_json::from_value(golden.expected["losses"].clone())?;
    if expected.len() != losses.len() {
        return Err(format!("{} steps; the peer had {}", losses.len(), expected.len()).into());
    }
    let differences: Vec<f64> = losses.iter().zip(&expected).map(|(a, b)| (a - b).abs()).collect();
    let report = serde_json::json!({
        "type": kind,
        "weights": weights,
        "steps": losses.len(),
        "mean_difference": differences.iter().sum::<f64>() / losses.len() as f64,
        "largest_difference": differences.iter().copied().fold(0.0, f64::max),
        "losses": [losses[0], losses[losses.len() - 1]],
        "peer": [expected[0], expected[losses.len() - 1]],
    });
    println!("{report}");
    Ok(())
}
