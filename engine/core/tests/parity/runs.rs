//! What must hold of whole runs, whatever the numbers are.

use std::sync::Arc;

use luthier_core::lora::peft::PeftAdapter;
use luthier_core::model::{Examples, TokenExamples};
use luthier_core::ops::Ops;
use luthier_core::ops::cpu::CpuOps;
use luthier_core::train::{EvaluationResult, Progress, Recompute, TrainConfig, Trainer, TrainingEvent, TrainingStep};

use crate::golden::{Golden, close};

type Run = Trainer<CpuOps<f64>>;

fn start(golden: &Golden, config: TrainConfig, evaluation: Option<TokenExamples>) -> Run {
    let ops = Arc::new(CpuOps::<f64>::new(2));
    let base = golden.model(&*ops);
    let evaluation = evaluation.map(|found| Box::new(found) as Box<dyn Examples>);
    Trainer::new(ops, base, config, golden.train(), evaluation, Some(golden.adapter("init_adapter"))).unwrap()
}

pub fn finish<O: Ops>(trainer: &mut Trainer<O>) -> (Vec<TrainingStep>, Vec<EvaluationResult>) {
    let (mut steps, mut evaluations) = (Vec::new(), Vec::new());
    loop {
        match trainer.advance().unwrap() {
            Progress::Event(TrainingEvent::Step(step)) => steps.push(step),
            Progress::Event(TrainingEvent::Evaluation(result)) => evaluations.push(result),
            Progress::Event(TrainingEvent::Started { .. }) | Progress::Pending | Progress::CheckpointDue => {}
            Progress::Event(TrainingEvent::Finished) => break,
            Progress::Finished => panic!("the run ends with an event"),
        }
    }
    assert_eq!(trainer.advance().unwrap(), Progress::Finished);
    (steps, evaluations)
}

pub fn largest_difference(a: &PeftAdapter, b: &PeftAdapter) -> f32 {
    assert!(a.modules.keys().eq(b.modules.keys()));
    let pairs = a.modules.iter().zip(&b.modules);
    let numbers = pairs.flat_map(|((_, a), (_, b))| a.a.iter().zip(&b.a).chain(a.b.iter().zip(&b.b)));
    numbers.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Six examples as one micro-batch, as three and as six: the same steps and the same adapter, though their label tokens differ.
#[test]
fn accumulation_equals_one_big_batch() {
    let golden = Golden::open("tied");
    let run = |batch: usize, accumulation: usize| {
        let config = TrainConfig {
            per_device_train_batch_size: batch,
            gradient_accumulation_steps: accumulation,
            max_steps: Some(5),
            ..golden.config()
        };
        let mut trainer = start(&golden, config, None);
        (finish(&mut trainer).0, trainer.adapter().unwrap())
    };
    let (big, big_adapter) = run(6, 1);
    assert_eq!(big.len(), 5);
    for (batch, accumulation) in [(2, 3), (1, 6)] {
        let (steps, adapter) = run(batch, accumulation);
        for (step, big) in steps.iter().zip(&big) {
            close("loss", step.loss, big.loss, 1e-12);
            close("grad_norm", step.grad_norm, big.grad_norm, 1e-10);
            assert_eq!((step.tokens, step.label_tokens), (big.tokens, big.label_tokens));
        }
        assert!(largest_difference(&adapter, &big_adapter) < 1e-6);
    }
}

/// All examples as one micro-batch each, and packed into sequences of several: the same steps, gradients and adapter, since none sees another.
fn packed_as_one_by_one<O: Ops>(ops: &Arc<O>, tolerance: f64) {
    let golden = Golden::open("tied");
    let run = |packing_length: Option<usize>| {
        let config = TrainConfig {
            per_device_train_batch_size: 1,
            gradient_accumulation_steps: 100,
            max_steps: Some(4),
            packing_length,
            ..golden.config()
        };
        let base = golden.model(&**ops);
        let initial = Some(golden.adapter("init_adapter"));
        let mut trainer = Trainer::new(ops.clone(), base, config, golden.train(), None, initial).unwrap();
        let packing = trainer.estimate().packing;
        (finish(&mut trainer).0, trainer.adapter().unwrap(), packing)
    };
    let (steps, adapter, none) = run(None);
    let train = golden.train();
    let length = 3 * train.longest();
    let (packed, packed_adapter, packing) = run(Some(length));
    let packing = packing.unwrap();
    assert!(none.is_none() && packing.sequences * 2 < train.len() as u64, "{packing:?}");
    let places = packing.sequences as f64 * length as f64;
    close("utilization", packing.utilization, train.input_ids.len() as f64 / places, 1e-12);
    assert_eq!((steps.len(), packed.len()), (4, 4));
    for (found, expected) in packed.iter().zip(&steps) {
        close("loss", found.loss, expected.loss, tolerance);
        close("grad_norm", found.grad_norm, expected.grad_norm, 10.0 * tolerance);
        assert_eq!((found.tokens, found.label_tokens), (expected.tokens, expected.label_tokens));
        assert_eq!(found.epoch, expected.epoch);
    }
    assert!(largest_difference(&packed_adapter, &adapter) < 1e-5);
}

#[test]
fn packing_changes_no_loss_and_no_gradient() {
    packed_as_one_by_one(&Arc::new(CpuOps::<f64>::new(2)), 1e-12);
    packed_as_one_by_one(&Arc::new(CpuOps::<f32>::new(2)), 2e-6);
}

#[test]
fn a_packed_run_takes_every_example_and_its_steps_are_planned() {
    let golden = Golden::open("tied");
    let length = 2 * golden.train().longest();
    let config =
        TrainConfig { packing_length: Some(length), max_steps: None, num_train_epochs: 2.0, ..golden.config() };
    let mut trainer = start(&golden, config, Some(golden.evaluation()));
    let estimate = trainer.estimate().clone();
    let (steps, evaluations) = finish(&mut trainer);
    assert_eq!((steps.len() as u64, steps.last().unwrap().epoch), (estimate.max_steps, 2.0));
    assert_eq!(steps.iter().map(|step| step.tokens).sum::<u64>(), estimate.run_tokens);
    assert_eq!(estimate.run_tokens, 2 * golden.train().input_ids.len() as u64);
    assert!(evaluations.iter().all(|result| result.examples == estimate.eval_examples));
    assert_eq!((estimate.examples, estimate.tokens), (golden.train().len() as u64, estimate.run_tokens / 2));
}

#[test]
fn evaluation_comes_first_at_epoch_ends_and_last_but_never_twice() {
    let golden = Golden::open("untied");
    let evaluations = |eval_steps: Option<u64>, max_steps: u64| -> Vec<(u64, f64)> {
        let config = TrainConfig { eval_steps, max_steps: Some(max_steps), ..golden.config() };
        let results = finish(&mut start(&golden, config, Some(golden.evaluation()))).1;
        assert!(results.iter().all(|result| result.examples == golden.evaluation().len() as u64));
        results.iter().map(|result| (result.global_step, result.epoch)).collect()
    };
    // 18 examples in batches of 4: five steps an epoch.
    assert_eq!(evaluations(None, 12), [(0, 0.0), (5, 1.0), (10, 2.0), (12, 2.4)]);
    assert_eq!(evaluations(None, 10), [(0, 0.0), (5, 1.0), (10, 2.0)]);
    assert_eq!(evaluations(Some(4), 8), [(0, 0.0), (4, 0.8), (8, 1.6)]);
    assert_eq!(evaluations(Some(100), 3), [(0, 0.0), (3, 0.6)]);
}

/// The batch size changes Trainer's mean of means, never the mean per token.
#[test]
fn the_loss_per_token_does_not_depend_on_the_evaluation_batch() {
    let golden = Golden::open("untied");
    let evaluate = |batch: usize| {
        let config = TrainConfig { per_device_eval_batch_size: batch, max_steps: Some(1), ..golden.config() };
        finish(&mut start(&golden, config, Some(golden.evaluation()))).1.remove(0)
    };
    // The largest is larger than any training micro-batch.
    let (one, all) = (evaluate(1), evaluate(100));
    close("loss", one.loss, all.loss, 1e-12);
    close("trainer_loss of one batch", all.trainer_loss, all.loss, 1e-12);
    assert!((one.trainer_loss - all.trainer_loss).abs() > 1e-6);
    assert_eq!((one.label_tokens, one.examples), (all.label_tokens, all.examples));
}

#[test]
fn one_call_does_one_micro_batch_and_the_adapter_changes_only_at_steps() {
    let golden = Golden::open("tied");
    let mut trainer = start(&golden, TrainConfig { warmup_steps: 0.0, ..golden.config() }, None);
    let initial = trainer.adapter().unwrap();
    assert_eq!(largest_difference(&initial, &golden.adapter("init_adapter")), 0.0);
    let started = trainer.advance().unwrap();
    let Progress::Event(TrainingEvent::Started(estimate)) = started else {
        panic!("{started:?}");
    };
    assert_eq!((estimate.max_steps, estimate.trainable_parameters), (50, initial.parameter_count()));
    assert_eq!(estimate.target_modules, ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]);
    for _ in 0..2 {
        assert_eq!(trainer.advance().unwrap(), Progress::Pending);
        assert_eq!(largest_difference(&trainer.adapter().unwrap(), &initial), 0.0);
    }
    assert!(matches!(trainer.advance().unwrap(), Progress::Event(TrainingEvent::Step(_))));
    assert_eq!(trainer.global_step(), 1);
    let after = trainer.adapter().unwrap();
    assert!(largest_difference(&after, &initial) > 0.0);
    // The next micro-batch gathers gradients only: stopping here loses nothing of the first step.
    assert_eq!(trainer.advance().unwrap(), Progress::Pending);
    assert_eq!(largest_difference(&trainer.adapter().unwrap(), &after), 0.0);
}

#[test]
fn the_last_group_of_an_epoch_may_be_short_and_counts_as_a_step() {
    let golden = Golden::open("tied");
    // 22 examples, batches of 2, groups of 3: three steps of six examples, one of four.
    let config = TrainConfig { max_steps: None, num_train_epochs: 1.5, ..golden.config() };
    let (steps, _) = finish(&mut start(&golden, config, None));
    let epochs: Vec<f64> = steps.iter().map(|step| step.epoch).collect();
    assert_eq!(epochs, [3.0 / 11.0, 6.0 / 11.0, 9.0 / 11.0, 1.0, 1.0 + 3.0 / 11.0, 1.0 + 6.0 / 11.0]);
    let tokens: u64 = steps[..4].iter().map(|step| step.tokens).sum();
    assert_eq!(tokens, golden.train().input_ids.len() as u64);
    assert!(steps.iter().all(|step| step.max_steps == 6));
}

#[test]
fn nothing_is_allocated_after_the_first_step() {
    let golden = Golden::open("tied");
    let (steps, _) = finish(&mut start(&golden, golden.config(), Some(golden.evaluation())));
    assert!(steps[0].peak_allocated_bytes > 0);
    assert!(steps.iter().all(|step| step.allocated_bytes == steps[0].allocated_bytes));
    assert!(steps.iter().all(|step| step.peak_allocated_bytes == steps[0].peak_allocated_bytes));
    assert_eq!(steps.last().map(|step| step.eta_seconds), Some(0.0));
    assert!(steps.iter().all(|step| step.tokens_per_second > 0.0));
}

/// In training alone, of every micro-batch anew, and the same in a run that is repeated or recomputes its blocks.
#[test]
fn noise_on_embeddings() {
    let golden = Golden::open("tied");
    let run = |neftune_noise_alpha, layers| {
        let config = TrainConfig {
            neftune_noise_alpha,
            learning_rate: 0.0,
            max_steps: Some(8),
            recompute_layers: Recompute::Layers(layers),
            ..golden.config()
        };
        let (steps, evaluations) = finish(&mut start(&golden, config, Some(golden.evaluation())));
        (steps.iter().map(|step| step.loss).collect::<Vec<_>>(), evaluations)
    };
    let (plain, evaluations) = run(0.0, 0);
    let (noisy, noisy_evaluations) = run(5.0, 0);
    assert_eq!(evaluations, noisy_evaluations);
    assert!(plain.iter().zip(&noisy).all(|(plain, noisy)| (plain - noisy).abs() > 1e-6 * plain));
    assert_eq!(run(5.0, 0).0, noisy);
    assert_eq!(run(5.0, 2).0, noisy);
    // Ten times less noise is ten times nearer.
    let change = |losses: &[f64]| plain.iter().zip(losses).map(|(a, b)| (a - b).abs()).sum::<f64>();
    let ratio = change(&noisy) / change(&run(0.5, 0).0);
    assert!((3.0..40.0).contains(&ratio), "{ratio}");
}

/// Two runs with the same settings take the same steps, bit for bit.
#[test]
fn a_run_repeats_itself() {
    let golden = Golden::open("tied");
    let run = || {
        let config = TrainConfig { max_steps: Some(6), ..golden.config() };
        let mut trainer = start(&golden, config, None);
        let losses: Vec<f64> = finish(&mut trainer).0.iter().map(|step| step.loss).collect();
        (losses, trainer.adapter().unwrap())
    };
    assert_eq!(run(), run());
}

#[test]
fn recomputing_changes_memory_and_nothing_else() {
    let golden = Golden::open("tied");
    let run = |layers| {
        let recompute_layers = Recompute::Layers(layers);
        let mut trainer = start(&golden, TrainConfig { recompute_layers, max_steps: Some(6), ..golden.config() }, None);
        let (steps, _) = finish(&mut trainer);
        (steps, trainer.adapter().unwrap())
    };
    let (kept, adapter) = run(0);
    // One of the layers, all, more than there are.
    let mut before = kept[0].peak_allocated_bytes;
    for recompute_layers in [1, 2, 9] {
        let (steps, other) = run(recompute_layers);
        for (found, expected) in steps.iter().zip(&kept) {
            assert_eq!((found.loss, found.grad_norm), (expected.loss, expected.grad_norm));
        }
        assert_eq!(largest_difference(&adapter, &other), 0.0);
        // Of one layer, the shared place saves nothing.
        assert!(steps[0].peak_allocated_bytes <= before, "{recompute_layers} layers");
        before = steps[0].peak_allocated_bytes;
    }
    assert!(before < kept[0].peak_allocated_bytes);
}
