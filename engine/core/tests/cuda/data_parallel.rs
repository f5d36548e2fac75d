//! Runs of several ranks on GPUs beside one rank that accumulates as many times more. Those that join GPUs by NCCL need several, numbered by
//! `LUTHIER_TEST_GPUS` (such as `0,1`), and are skipped without.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use luthier_core::lora::peft::PeftAdapter;
use luthier_core::model::{BaseModel, Examples, TokenExamples};
use luthier_core::ops::cuda::{CudaOps, NumberType, nccl};
use luthier_core::ranks::{Connect, DEADLINE, RankThread, shared_memory};
use luthier_core::train::{
    Progress, Rank, RankedInputs, RankedTrainer, Recompute, TrainConfig, Trainer, TrainingEvent, TrainingStep,
};
use luthier_core::{ErrorCode, ModelConfig, Result, StoredType, WeightStorage};

use crate::random_model::{RandomModel, examples, settings};

const VOCABULARY: usize = 512;
type Devices = (Rank<CudaOps>, Vec<(Rank<CudaOps>, Arc<RankThread>)>);

/// GPUs of this machine that may be joined.
fn gpus() -> Option<Vec<usize>> {
    let text = std::env::var("LUTHIER_TEST_GPUS").ok()?;
    let found: Vec<usize> = text.split(',').map(|number| number.parse().unwrap()).collect();
    assert!(found.len() > 1, "LUTHIER_TEST_GPUS={text} names one GPU; expected several, such as 0,1");
    Some(found)
}

fn rank(ordinal: usize, number: usize) -> Rank<CudaOps> {
    let ops = Arc::new(CudaOps::open(ordinal, NumberType::F32).unwrap());
    let model = RandomModel::new([3, 4, 2, 32, 128, 256, VOCABULARY], true, StoredType::F32, StoredType::F32);
    let base = Arc::new(BaseModel::load(&*ops, &model, WeightStorage::Stored).unwrap());
    Rank { name: format!("rank:{number}"), ops, base }
}

fn devices(ordinals: &[usize]) -> Devices {
    let mut ranks = ordinals.iter().enumerate().map(|(number, ordinal)| rank(*ordinal, number));
    let first = ranks.next().unwrap();
    let others = ranks.map(|rank| {
        let thread = Arc::new(RankThread::start(&rank.name).unwrap());
        (rank, thread)
    });
    (first, others.collect())
}

fn config() -> TrainConfig {
    TrainConfig { gradient_accumulation_steps: 2, max_steps: Some(5), ..settings(8, 2, 2, Recompute::Layers(0)) }
}

fn train() -> TokenExamples {
    let lengths: Vec<usize> = (0..24).map(|index| 20 + index * 37 % 90).collect();
    examples(&lengths, 12, VOCABULARY)
}

fn inputs(train: impl Examples + 'static) -> RankedInputs {
    let evaluation = Some(Arc::new(examples(&[40, 30, 20, 60, 25], 10, VOCABULARY)) as Arc<dyn Examples>);
    RankedInputs { config: config(), train: Arc::new(train), evaluation, initial: None, model: None, resume_from: None }
}

struct Run {
    steps: Vec<TrainingStep>,
    evaluations: Vec<f64>,
    adapters: Vec<PeftAdapter>,
}

fn collect(mut advance: impl FnMut() -> Progress) -> (Vec<TrainingStep>, Vec<f64>) {
    let (mut steps, mut evaluations) = (Vec::new(), Vec::new());
    loop {
        match advance() {
            Progress::Event(TrainingEvent::Step(step)) => steps.push(step),
            Progress::Event(TrainingEvent::Evaluation(result)) => evaluations.push(result.loss),
            Progress::Event(TrainingEvent::Started(_)) | Progress::Pending | Progress::CheckpointDue => {}
            Progress::Event(TrainingEvent::Finished) | Progress::Finished => return (steps, evaluations),
        }
    }
}

fn together(ordinals: &[usize], connect: &Connect<CudaOps>) -> Run {
    let (first, others) = devices(ordinals);
    let mut trainer = RankedTrainer::new(first, others, &inputs(train()), connect, DEADLINE).unwrap();
    let (steps, evaluations) = collect(|| trainer.advance().unwrap());
    Run { steps, evaluations, adapters: trainer.adapters().unwrap() }
}

fn alone(ordinal: usize, ranks: usize) -> Run {
    let Rank { ops, base, .. } = rank(ordinal, 0);
    let config = config();
    let config = TrainConfig { gradient_accumulation_steps: config.gradient_accumulation_steps * ranks, ..config };
    let RankedInputs { train, evaluation, .. } = inputs(train());
    let evaluation = evaluation.map(|found| Box::new(found) as Box<dyn Examples>);
    let mut trainer = Trainer::new(ops, base, config, train, evaluation, None).unwrap();
    let (steps, evaluations) = collect(|| trainer.advance().unwrap());
    Run { steps, evaluations, adapters: vec![trainer.adapter().unwrap()] }
}

fn same(what: &str, found: &Run, expected: &Run) {
    let close = |found: f64, expected: f64| (found - expected).abs() <= 1e-5 * expected.abs();
    assert_eq!(found.steps.len(), expected.steps.len());
    for (found, expected) in found.steps.iter().zip(&expected.steps) {
        let (losses, norms) = ([found.loss, expected.loss], [found.grad_norm, expected.grad_norm]);
        assert!(close(losses[0], losses[1]) && close(norms[0], norms[1]), "{what}: {losses:?}, {norms:?}");
        assert_eq!((found.tokens, found.label_tokens), (expected.tokens, expected.label_tokens), "{what}");
    }
    assert_eq!(found.evaluations.len(), expected.evaluations.len());
    for (found, expected) in found.evaluations.iter().zip(&expected.evaluations) {
        assert!(close(*found, *expected), "{what}: evaluations {found}, {expected}");
    }
    assert!(found.adapters.iter().all(|adapter| *adapter == found.adapters[0]), "{what}: the ranks have parted");
    let modules = found.adapters[0].modules.values().zip(expected.adapters[0].modules.values());
    let numbers = modules.flat_map(|(a, b)| a.a.iter().zip(&b.a).chain(a.b.iter().zip(&b.b)));
    let off = numbers.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off <= 2e-5, "{what}: the adapters differ by {off:e}");
}

/// Needs one GPU: two ranks share it, each with a stream of its own.
#[test]
fn ranks_on_one_gpu_equal_accumulation() {
    let ordinal = std::env::var("LUTHIER_TEST_GPU").map_or(0, |text| text.parse().unwrap());
    let expected = alone(ordinal, 2);
    same("at once", &together(&[ordinal; 2], &shared_memory(2, None)), &expected);
    same("in buckets", &together(&[ordinal; 2], &shared_memory(2, Some(1))), &expected);
}

#[test]
fn gpus_joined_by_nccl_equal_accumulation() {
    let Some(gpus) = gpus() else { return };
    let expected = alone(gpus[0], gpus.len());
    for bucket_len in [None, Some(1), Some(30_000)] {
        let run = together(&gpus, &nccl(bucket_len));
        same(&format!("buckets {bucket_len:?}"), &run, &expected);
        for step in &run.steps {
            assert_eq!(step.devices.len(), gpus.len());
            assert!(step.devices.iter().all(|device| (0.0..1.0).contains(&device.communication_share)), "{step:?}");
        }
    }
}

/// One GPU cannot be two ranks for NCCL: refused in its words, and no rank waits.
#[test]
fn one_gpu_twice_is_refused_by_nccl() {
    let Some(gpus) = gpus() else { return };
    let (first, others) = devices(&[gpus[0]; 2]);
    let refused = RankedTrainer::new(first, others, &inputs(train()), &nccl(None), Duration::from_secs(60));
    assert_eq!(refused.err().expect("a GPU is there twice").code, ErrorCode::Internal);
}

/// Examples that break on one rank's thread once they are armed.
struct Breaking {
    examples: TokenExamples,
    armed: Arc<AtomicBool>,
}

impl Examples for Breaking {
    fn len(&self) -> usize {
        self.examples.len()
    }

    fn example(&self, index: usize) -> (&[u32], &[i32]) {
        let here = thread::current().name() == Some("luthier-rank:1");
        assert!(!here || !self.armed.load(Ordering::Relaxed), "a broken page");
        self.examples.example(index)
    }

    fn example_len(&self, index: usize) -> usize {
        self.examples.example_len(index)
    }

    fn label_count(&self, index: usize) -> usize {
        self.examples.label_count(index)
    }

    fn validate(&self, config: &ModelConfig, what: &str) -> Result<()> {
        self.examples.validate(config, what)
    }

    fn check_layout(&self, what: &str) -> Result<()> {
        self.examples.check_layout(what)
    }
}

/// One rank breaks while the others have begun to sum: the run ends with its cause, and the GPUs can be used again.
#[test]
fn a_gpu_that_breaks_ends_the_run_on_all() {
    let Some(gpus) = gpus() else { return };
    let armed = Arc::new(AtomicBool::new(false));
    let given = inputs(Breaking { examples: train(), armed: armed.clone() });
    // One micro-batch a step: the ranks that do not break sum in it.
    let given = RankedInputs { config: TrainConfig { gradient_accumulation_steps: 1, ..config() }, ..given };
    let (first, others) = devices(&gpus);
    let mut trainer = RankedTrainer::new(first, others, &given, &nccl(Some(1)), Duration::from_secs(60)).unwrap();
    while trainer.global_step() < 2 {
        trainer.advance().unwrap();
    }
    armed.store(true, Ordering::Relaxed);
    let error = loop {
        if let Err(error) = trainer.advance() {
            break error;
        }
    };
    assert!(error.message.contains("on rank:1") && error.message.contains("a broken page"), "{error}");
    drop(trainer);
    same("afterwards", &together(&gpus, &nccl(None)), &alone(gpus[0], gpus.len()));
}
