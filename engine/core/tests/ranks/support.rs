//! Runs of as many ranks as are asked for.

use std::sync::Arc;
use std::time::Duration;

use luthier_core::Result;
use luthier_core::lora::peft::PeftAdapter;
use luthier_core::model::{Examples, TokenExamples};
use luthier_core::ops::cpu::CpuOps;
use luthier_core::ranks::{Connect, DEADLINE, RankThread, shared_memory};
use luthier_core::train::{
    EvaluationResult, Progress, Rank, RankedInputs, RankedTrainer, TrainConfig, Trainer, TrainingEvent, TrainingStep,
};

use crate::golden::Golden;

pub type Ops = CpuOps<f32>;

/// The adapter of every golden run here.
pub fn inputs(
    golden: &Golden,
    config: TrainConfig,
    train: impl Examples + 'static,
    evaluation: Option<TokenExamples>,
) -> RankedInputs {
    RankedInputs {
        config,
        train: Arc::new(train),
        evaluation: evaluation.map(|found| Arc::new(found) as Arc<dyn Examples>),
        initial: Some(golden.adapter("init_adapter")),
        model: None,
        resume_from: None,
    }
}

/// Devices `cpu:0`, `cpu:1`, …, each with memory and weights of its own.
pub fn devices(golden: &Golden, ranks: usize) -> (Rank<Ops>, Vec<(Rank<Ops>, Arc<RankThread>)>) {
    let rank = |number: usize| {
        let ops = Arc::new(Ops::new(1));
        Rank { name: format!("cpu:{number}"), base: golden.model(&*ops), ops }
    };
    let thread = |rank: &Rank<Ops>| Arc::new(RankThread::start(&rank.name).unwrap());
    let others = (1..ranks).map(rank).map(|rank| {
        let thread = thread(&rank);
        (rank, thread)
    });
    (rank(0), others.collect())
}

pub fn start(golden: &Golden, ranks: usize, inputs: &RankedInputs) -> Result<RankedTrainer<Ops>> {
    start_with(golden, ranks, inputs, &shared_memory(ranks, None), DEADLINE)
}

pub fn start_with(
    golden: &Golden,
    ranks: usize,
    inputs: &RankedInputs,
    connect: &Connect<Ops>,
    deadline: Duration,
) -> Result<RankedTrainer<Ops>> {
    let (first, others) = devices(golden, ranks);
    RankedTrainer::new(first, others, inputs, connect, deadline)
}

/// What a run has told, and its adapter.
#[derive(Debug, PartialEq)]
pub struct Run {
    pub steps: Vec<TrainingStep>,
    pub evaluations: Vec<EvaluationResult>,
    pub adapter: PeftAdapter,
}

fn events(mut advance: impl FnMut() -> Result<Progress>) -> Result<(Vec<TrainingStep>, Vec<EvaluationResult>)> {
    let (mut steps, mut evaluations) = (Vec::new(), Vec::new());
    loop {
        match advance()? {
            Progress::Event(TrainingEvent::Step(step)) => steps.push(step),
            Progress::Event(TrainingEvent::Evaluation(result)) => evaluations.push(result),
            Progress::Event(TrainingEvent::Started { .. }) | Progress::Pending => {}
            Progress::Event(TrainingEvent::Finished) => break,
            Progress::CheckpointDue => panic!("no checkpoint was asked for"),
            Progress::Finished => panic!("the run ends with an event"),
        }
    }
    assert_eq!(advance()?, Progress::Finished);
    Ok((steps, evaluations))
}

/// Runs to the end; every rank then has the same adapter.
pub fn finish(mut trainer: RankedTrainer<Ops>) -> Run {
    let (steps, evaluations) = events(|| trainer.advance()).unwrap();
    let mut adapters = trainer.adapters().unwrap();
    let adapter = adapters.remove(0);
    assert!(adapters.iter().all(|other| *other == adapter), "the ranks have parted");
    Run { steps, evaluations, adapter }
}

/// The same by one rank without a collective.
pub fn alone(golden: &Golden, inputs: &RankedInputs) -> Run {
    let ops = Arc::new(Ops::new(1));
    let RankedInputs { config, train, evaluation, initial, .. } = inputs.clone();
    let evaluation = evaluation.map(|found| Box::new(found) as Box<dyn Examples>);
    let mut trainer = Trainer::new(ops.clone(), golden.model(&*ops), config, train, evaluation, initial).unwrap();
    let (steps, evaluations) = events(|| trainer.advance()).unwrap();
    Run { steps, evaluations, adapter: trainer.adapter().unwrap() }
}

pub fn largest_difference(a: &PeftAdapter, b: &PeftAdapter) -> f32 {
    assert!(a.modules.keys().eq(b.modules.keys()));
    let pairs = a.modules.iter().zip(&b.modules);
    let numbers = pairs.flat_map(|((_, a), (_, b))| a.a.iter().zip(&b.a).chain(a.b.iter().zip(&b.b)));
    numbers.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Some examples by their numbers, in this order.
pub fn chosen(from: &dyn Examples, numbers: impl IntoIterator<Item = usize>) -> TokenExamples {
    let mut examples = TokenExamples { offsets: vec![0], ..TokenExamples::default() };
    for number in numbers {
        let (ids, labels) = from.example(number);
        examples.input_ids.extend(ids);
        examples.labels.extend(labels);
        examples.offsets.push(examples.input_ids.len() as u32);
    }
    examples
}
