//! Which blocks are recomputed, what is refused, and what is suggested instead. The processor's limit stands for a small device.

use std::sync::Arc;

use luthier_core::model::{BaseModel, Examples, TokenExamples};
use luthier_core::ops::Ops;
use luthier_core::ops::cpu::CpuOps;
use luthier_core::train::{
    EstimateRequest, MemoryEstimate, Progress, Recompute, Suggestion, TrainConfig, Trainer, estimate,
};
use luthier_core::{EngineError, ErrorCode, StoredType, WeightStorage};

use crate::random_model::{RandomModel, examples, settings};

const LAYERS: usize = 6;

fn model() -> RandomModel {
    RandomModel::new([LAYERS, 4, 4, 32, 128, 256, 512], true, StoredType::F32, StoredType::F32)
}

fn long() -> TokenExamples {
    examples(&[256; 8], 256, 512)
}

/// A device with the model, and with so many bytes more.
struct Bench {
    ops: Arc<CpuOps<f32>>,
    base: Arc<BaseModel<CpuOps<f32>>>,
}

impl Bench {
    fn new() -> Self {
        let ops = Arc::new(CpuOps::<f32>::new(1));
        let base = Arc::new(BaseModel::load(&*ops, &model(), WeightStorage::Stored).unwrap());
        Self { ops, base }
    }

    /// Leaves exactly so many bytes for a plan besides the weights: the margin, a twentieth of what is free, comes on top.
    fn leave(&self, bytes: u64) {
        let needed = bytes - self.ops.room().scratch_bytes;
        let mut free = needed;
        while free - free / 20 < needed {
            free += 1.max(needed - (free - free / 20));
        }
        self.ops.limit_memory(self.ops.memory().allocated_bytes + free);
    }

    fn trainer(&self, config: TrainConfig, train: TokenExamples) -> Result<Trainer<CpuOps<f32>>, EngineError> {
        Trainer::new(self.ops.clone(), self.base.clone(), config, train, None, None)
    }

    /// The estimate of a run that fits.
    fn memory(&self, config: TrainConfig) -> MemoryEstimate {
        self.trainer(config, long()).unwrap().estimate().memory.clone()
    }

    /// Bytes of a run besides the weights.
    fn bytes(&self, recompute_layers: Recompute, batch: usize) -> u64 {
        let plan = self.memory(settings(4, batch, 1, recompute_layers)).plan;
        plan.total_bytes() - plan.weight_bytes
    }
}

/// Runs to the end.
fn finish(mut trainer: Trainer<CpuOps<f32>>) {
    while trainer.advance().unwrap() != Progress::Finished {}
}

#[test]
fn auto_recomputes_as_few_blocks_as_fit() {
    let bench = Bench::new();
    let bytes: Vec<u64> = (0..=LAYERS).map(|layers| bench.bytes(Recompute::Layers(layers), 4)).collect();
    assert_eq!(bytes[0], bytes[1], "one place for one block saves nothing");
    assert!(bytes[1..].is_sorted_by(|more, less| more > less));
    for (expected, room) in
        [(0, bytes[0]), (2, bytes[0] - 1), (2, bytes[2]), (4, bytes[4] + 1), (LAYERS, bytes[LAYERS])]
    {
        bench.leave(room);
        let trainer = bench.trainer(settings(4, 4, 1, Recompute::Auto), long()).unwrap();
        let memory = trainer.estimate().memory.clone();
        assert_eq!(memory.plan.recompute_layers, expected, "with {room} bytes");
        assert!(memory.fits && memory.suggestions.is_empty());
        assert!(memory.plan.total_bytes() - memory.held_bytes <= memory.free_bytes.unwrap() - memory.margin_bytes);
        finish(trainer);
    }
}

/// What `refusal` says, and that nothing was allocated on the way.
fn refused(bench: &Bench, config: TrainConfig) -> EngineError {
    let before = bench.ops.memory();
    let error = bench.trainer(config, long()).err().unwrap();
    assert_eq!(error.code, ErrorCode::OutOfMemory);
    assert_eq!(bench.ops.memory(), before);
    error
}

/// What is told of a run on the bench's model, loaded or not.
fn told(bench: &Bench, config: &TrainConfig, loaded: bool, evaluation: Option<&TokenExamples>) -> MemoryEstimate {
    let request = EstimateRequest {
        model: &bench.base.config,
        weights: &bench.base.forms,
        loaded,
        config,
        train: &long(),
        evaluation: evaluation.map(|found| found as &dyn Examples),
        initial: None,
    };
    estimate(&*bench.ops, &request).unwrap().memory
}

/// The settings with a suggestion followed, and the examples then.
fn follow(config: &TrainConfig, suggestion: &Suggestion) -> (TrainConfig, TokenExamples) {
    let keep = |new: Option<usize>, old: usize| new.unwrap_or(old);
    let changed = TrainConfig {
        per_device_train_batch_size: keep(suggestion.per_device_train_batch_size, config.per_device_train_batch_size),
        gradient_accumulation_steps: keep(suggestion.gradient_accumulation_steps, config.gradient_accumulation_steps),
        recompute_layers: suggestion.recompute_layers.map_or(config.recompute_layers, Recompute::Layers),
        ..config.clone()
    };
    let length = suggestion.max_seq_length.map_or(256, |limit| limit.min(256));
    (changed, examples(&[length; 8], length, 512))
}

#[test]
fn an_explicit_setting_that_does_not_fit_is_refused_and_each_suggestion_fits() {
    let bench = Bench::new();
    let config = settings(4, 8, 1, Recompute::Layers(0));
    let (whole, least) = (bench.bytes(Recompute::Layers(0), 8), bench.bytes(Recompute::All, 8));
    bench.leave(least + (whole - least) / 4);
    let error = refused(&bench, config.clone());
    for part in ["weights ", "adapter and optimizer ", "activations ", "scratch ", "are free", "what would fit:"] {
        assert!(error.message.contains(part), "{part}: {}", error.message);
    }
    let memory = told(&bench, &config, true, None);
    assert!(!memory.fits);
    let named = |has: fn(&Suggestion) -> bool| memory.suggestions.iter().filter(|found| has(found)).count();
    assert_eq!(memory.suggestions.len(), 3, "{:?}", memory.suggestions);
    assert_eq!(named(|found| found.recompute_layers.is_some()), 1);
    assert_eq!(named(|found| found.per_device_train_batch_size.is_some()), 1);
    assert_eq!(named(|found| found.max_seq_length.is_some()), 1);
    for suggestion in &memory.suggestions {
        assert!(error.message.contains(&suggestion.to_string()), "{suggestion}: {}", error.message);
        let (changed, train) = follow(&config, suggestion);
        assert_eq!(changed.per_device_train_batch_size * changed.gradient_accumulation_steps, 8, "the same steps");
        let trainer = bench.trainer(changed, train).unwrap();
        let found = trainer.estimate().memory.plan.total_bytes();
        assert!(found <= suggestion.total_bytes, "{suggestion:?}: {found} bytes");
        finish(trainer);
    }
}

#[test]
fn where_one_change_is_not_enough_several_are_suggested_and_where_none_is_there_is_none() {
    let bench = Bench::new();
    let config = settings(4, 8, 1, Recompute::Auto);
    bench.leave(bench.bytes(Recompute::All, 1) * 3 / 4);
    let memory = told(&bench, &config, true, None);
    let [one] = &memory.suggestions[..] else { panic!("{:?}", memory.suggestions) };
    assert_eq!(one.per_device_train_batch_size, Some(1));
    assert_eq!(one.gradient_accumulation_steps, Some(8));
    let (changed, train) = follow(&config, one);
    finish(bench.trainer(changed, train).unwrap());

    bench.leave(100_000);
    let error = refused(&bench, config);
    assert!(error.message.contains("no setting makes it fit"), "{}", error.message);
}

#[test]
fn weights_in_4_bits_are_suggested_before_the_model_is_loaded() {
    let bench = Bench::new();
    let weights = bench.ops.memory().allocated_bytes;
    let config = settings(4, 1, 1, Recompute::All);
    let bytes = bench.bytes(Recompute::All, 1);
    // As if nothing were held: a device with room for a quarter of the weights and the run.
    bench.leave(bytes + weights / 3);
    let memory = told(&bench, &config, false, None);
    assert!(!memory.fits && memory.suggestions.iter().any(|found| found.load_in_4bit), "{:?}", memory.suggestions);
}

#[test]
fn an_evaluation_that_does_not_fit_is_made_smaller_and_training_stays_as_it_is() {
    let bench = Bench::new();
    let config = settings(4, 1, 8, Recompute::All);
    let whole = told(&bench, &config, true, Some(&long())).plan;
    let training = told(&bench, &config, true, None).plan;
    assert!(whole.evaluation_bytes > 0 && whole.scratch_bytes > training.scratch_bytes);
    assert_eq!(whole.activation_bytes, training.activation_bytes);
    bench.leave(training.total_bytes() - training.weight_bytes);
    let memory = told(&bench, &config, true, Some(&long()));
    let found = memory.suggestions.iter().find(|found| found.per_device_eval_batch_size.is_some());
    let expected = Suggestion {
        total_bytes: training.total_bytes(),
        per_device_eval_batch_size: Some(1),
        ..Suggestion::default()
    };
    assert_eq!(found, Some(&expected));
    let changed = TrainConfig { per_device_eval_batch_size: 1, ..config };
    assert!(told(&bench, &changed, true, Some(&long())).fits);
}

/// Memory that is gone when an operation needs it, after everything was planned: the run ends, the device goes on.
#[test]
fn memory_that_runs_out_in_a_step_ends_the_run_alone() {
    let bench = Bench::new();
    let config = settings(4, 2, 1, Recompute::Auto);
    let mut trainer = Trainer::new(
        bench.ops.clone(),
        Arc::new(BaseModel::load(&*bench.ops, &model(), WeightStorage::Bf16).unwrap()),
        config.clone(),
        long(),
        None,
        None,
    )
    .unwrap();
    bench.ops.limit_memory(bench.ops.memory().allocated_bytes);
    let error = loop {
        match trainer.advance() {
            Ok(progress) => assert_ne!(progress, Progress::Finished),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code, ErrorCode::OutOfMemory);
    assert_eq!(trainer.advance().unwrap(), Progress::Finished);
    drop(trainer);
    bench.ops.limit_memory(u64::MAX);
    finish(bench.trainer(config, long()).unwrap());
}
