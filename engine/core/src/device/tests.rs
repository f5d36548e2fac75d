//! The thread's policy, with tasks that only count, and real runs on the tiny model of the golden files.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::backend::Accelerator;
use super::others::Others;
use super::task::{Task, Turn};
use super::*;
use crate::error::{EngineError, ErrorCode, Result};
use crate::generate::{SamplingConfig, TokenScores};
use crate::lora::{LoraConfig, LoraTargets};
use crate::model::TokenExamples;
use crate::ops::EmbeddingPlace;
use crate::ops::cpu::CpuOps;
use crate::quant::WeightStorage;
use crate::ranks::shared_memory;
use crate::train::{LrSchedulerType, Recompute, TrainConfig, TrainingEvent};

mod ranks;

const PATIENCE: Duration = Duration::from_secs(20);

type Log = Arc<Mutex<Vec<&'static str>>>;

/// Writes its name at every turn.
struct Counted {
    name: &'static str,
    turns: usize,
    training: bool,
    takes: Duration,
    log: Log,
    done: Sender<Option<EngineError>>,
}

impl Task for Counted {
    fn advance(&mut self) -> Turn {
        let begin = Instant::now();
        while begin.elapsed() < self.takes {
            std::hint::spin_loop();
        }
        self.log.lock().unwrap().push(self.name);
        assert!(self.name != "bad", "a bug");
        self.turns -= 1;
        if self.turns > 0 {
            return Turn::Again;
        }
        self.done.send(None).unwrap();
        Turn::Done
    }

    fn fail(&mut self, error: EngineError) {
        // The test may have ended before the device did.
        let _ = self.done.send(Some(error));
    }

    fn is_training(&self) -> bool {
        self.training
    }
}

struct Bench {
    device: Device,
    log: Log,
    done: (Sender<Option<EngineError>>, Receiver<Option<EngineError>>),
}

impl Bench {
    fn new() -> Self {
        Self { device: Device::open(1).unwrap(), log: Log::default(), done: channel() }
    }

    fn task(&self, name: &'static str, turns: usize, training: bool, takes: u64) -> Box<dyn Task> {
        let (log, done) = (self.log.clone(), self.done.0.clone());
        Box::new(Counted { name, turns, training, takes: Duration::from_micros(takes), log, done })
    }

    fn wait(&self) -> Option<EngineError> {
        self.done.1.recv_timeout(PATIENCE).unwrap()
    }
}

#[test]
fn requests_take_turns() {
    let bench = Bench::new();
    // No turn ends before all have come.
    let held = bench.log.lock().unwrap();
    bench.device.submit(bench.task("first", 1, false, 0));
    bench.device.submit(bench.task("a", 50, false, 0));
    bench.device.submit(bench.task("b", 50, false, 0));
    drop(held);
    for _ in 0..3 {
        assert!(bench.wait().is_none());
    }
    let log = bench.log.lock().unwrap();
    assert!(log[1..].chunks(2).all(|pair| pair == ["a", "b"]), "{log:?}");
}

#[test]
fn between_micro_batches_requests_have_as_long_as_a_micro_batch() {
    let bench = Bench::new();
    bench.device.submit(bench.task("training", 12, true, 20_000));
    bench.device.submit(bench.task("request", 100, false, 1_000));
    assert!(bench.wait().is_none());
    let log = bench.log.lock().unwrap().clone();
    let position = |name| log.iter().position(|found| *found == name).unwrap();
    assert!(position("request") <= 2, "it waits for two micro-batches at most: {log:?}");
    // About 20 turns between two micro-batches; the machine may be busy, so only that there are several counts.
    let between: Vec<usize> = log.split(|name| *name == "training").map(<[_]>::len).collect();
    assert!(between.iter().max().unwrap() >= &2, "{between:?}");
    assert!(between.iter().filter(|count| **count > 0).count() >= 2, "{between:?}");
    assert!(bench.wait().is_none());
}

#[test]
fn two_training_runs_take_turns() {
    let bench = Bench::new();
    let held = bench.log.lock().unwrap();
    bench.device.submit(bench.task("first", 1, true, 0));
    bench.device.submit(bench.task("a", 10, true, 100));
    bench.device.submit(bench.task("b", 10, true, 100));
    drop(held);
    for _ in 0..3 {
        assert!(bench.wait().is_none());
    }
    let log = bench.log.lock().unwrap();
    assert!(log[1..].chunks(2).all(|pair| pair == ["a", "b"]), "{log:?}");
}

#[test]
fn a_panic_ends_only_its_own_run() {
    let bench = Bench::new();
    bench.device.submit(bench.task("bad", 1, false, 0));
    let error = bench.wait().unwrap();
    assert_eq!(error.code, ErrorCode::Internal);
    assert!(error.message.contains("a bug"), "{error}");
    bench.device.submit(bench.task("good", 1, true, 0));
    assert!(bench.wait().is_none());
}

/// Breaks wherever it can.
struct Hostile;

impl Task for Hostile {
    fn advance(&mut self) -> Turn {
        panic!("while it works");
    }

    fn fail(&mut self, _: EngineError) {
        panic!("while it is told");
    }
}

/// Breaks while it is freed.
struct HostileAtTheEnd;

impl Task for HostileAtTheEnd {
    fn advance(&mut self) -> Turn {
        Turn::Done
    }

    fn fail(&mut self, _: EngineError) {}
}

impl Drop for HostileAtTheEnd {
    fn drop(&mut self) {
        panic!("while it is freed");
    }
}

#[test]
fn nothing_that_a_run_does_ends_the_thread() {
    let bench = Bench::new();
    bench.device.submit(Box::new(Hostile));
    bench.device.submit(Box::new(HostileAtTheEnd));
    bench.device.submit(bench.task("good", 1, false, 0));
    assert!(bench.wait().is_none());
}

#[test]
fn a_request_that_came_during_a_micro_batch_is_served_right_after_it() {
    let bench = Bench::new();
    // The first turn cannot end before the request has come.
    let held = bench.log.lock().unwrap();
    bench.device.submit(bench.task("training", 3, true, 0));
    std::thread::sleep(Duration::from_millis(20));
    bench.device.submit(bench.task("request", 1, false, 0));
    drop(held);
    assert!(bench.wait().is_none());
    assert!(bench.wait().is_none());
    assert_eq!(*bench.log.lock().unwrap(), ["training", "request", "training", "training"]);
}

#[test]
fn closing_ends_what_is_under_way_and_refuses_what_comes() {
    let bench = Bench::new();
    bench.device.submit(bench.task("endless", usize::MAX, true, 100));
    bench.device.close();
    assert_eq!(bench.wait().unwrap().code, ErrorCode::Closed);
    bench.device.submit(bench.task("late", 1, false, 0));
    assert_eq!(bench.wait().unwrap().code, ErrorCode::Closed);
    bench.device.close();
}

fn tiny(device: &Device) -> Arc<LoadedModel> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../test/parity/golden/tied/model");
    Arc::new(device.load(&path, WeightStorage::Stored, EmbeddingPlace::Device).unwrap())
}

/// A run of many steps over one example.
fn request(model: Arc<LoadedModel>) -> TrainingRequest {
    let config = TrainConfig {
        lora: LoraConfig {
            r: 4,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            targets: LoraTargets::default(),
            use_rslora: false,
            seed: 0,
        },
        learning_rate: 1e-3,
        lr_scheduler_type: LrSchedulerType::Constant,
        warmup_steps: 0.0,
        weight_decay: 0.0,
        adam_beta1: 0.9,
        adam_beta2: 0.999,
        adam_epsilon: 1e-8,
        max_grad_norm: 1.0,
        per_device_train_batch_size: 1,
        gradient_accumulation_steps: 1,
        num_train_epochs: 1.0,
        max_steps: Some(1_000_000),
        per_device_eval_batch_size: 1,
        eval_steps: None,
        shuffle: false,
        data_seed: 0,
        group_by_length: false,
        packing_length: None,
        recompute_layers: Recompute::Layers(0),
        offload_activations: false,
        loss_scaling: None,
        ..TrainConfig::default()
    };
    let train = TokenExamples { input_ids: vec![1, 2, 3, 4], labels: vec![1, 2, 3, 4], offsets: vec![0, 4] };
    TrainingRequest { model, config, train: Box::new(train), evaluation: None, initial: None, resume_from: None }
}

fn start(device: &Device, request: TrainingRequest) -> Result<TrainingRun> {
    let (started, wait) = channel();
    device.train(request, move |run| started.send(run).unwrap());
    wait.recv_timeout(PATIENCE).unwrap()
}

fn next<T: Send + 'static>(events: &Events<T>) -> Batch<T> {
    let (sender, receiver) = channel();
    events.next(move |batch| sender.send(batch).unwrap());
    receiver.recv_timeout(PATIENCE).unwrap()
}

#[test]
fn a_training_run_is_cancelled_and_keeps_its_adapter() {
    let device = Device::open(2).unwrap();
    let run = start(&device, request(tiny(&device))).unwrap();
    assert_eq!(run.adapter().unwrap_err().code, ErrorCode::InvalidArgument);
    let mut steps = 0;
    let last = loop {
        let batch = next(&run.events);
        let counted = |event: &&RunEvent| matches!(event, RunEvent::Training(TrainingEvent::Step(_)));
        steps += batch.items.iter().filter(counted).count();
        if steps > 3 {
            run.cancel();
        }
        if let Some(end) = batch.end {
            end.unwrap();
            break batch.items.into_iter().last();
        }
    };
    assert_eq!(last, Some(RunEvent::Cancelled));
    assert_eq!(run.adapter().unwrap().modules.len(), 14);
}

/// Until something is told that is meant; every step on the way.
fn wait_for(run: &TrainingRun, meant: impl Fn(&RunEvent) -> bool) -> (Vec<u64>, RunEvent) {
    let mut steps = Vec::new();
    loop {
        let batch = next(&run.events);
        for event in batch.items {
            if let RunEvent::Training(TrainingEvent::Step(step)) = &event {
                steps.push(step.global_step);
            }
            if meant(&event) {
                return (steps, event);
            }
        }
        assert!(batch.end.is_none(), "the run ended with {:?}", batch.end);
    }
}

/// On both kinds of devices: a checkpoint while the run goes on, then a pause; the next run begins where it ended.
#[test]
fn a_paused_run_keeps_its_adapter_and_goes_on_elsewhere() {
    for device in [Device::open(2).unwrap(), accelerator()] {
        let model = tiny(&device);
        let run = start(&device, request(model.clone())).unwrap();
        assert_eq!(run.resumed, None);
        let folder = std::env::temp_dir().join(format!("luthier-paused-{}", std::process::id()));
        let written = |run: &TrainingRun| {
            std::fs::create_dir(&folder).unwrap();
            let saved = run.write_checkpoint(&folder).unwrap();
            let read = crate::train::checkpoint::Checkpoint::read(&folder).unwrap();
            std::fs::remove_dir_all(&folder).unwrap();
            assert_eq!(read.global_step(), saved.global_step);
            read
        };
        assert_eq!(run.write_checkpoint(&folder).unwrap_err().code, ErrorCode::InvalidArgument);
        run.request_checkpoint();
        let (_, event) = wait_for(&run, |event| matches!(event, RunEvent::Checkpoint(_)));
        assert_eq!(event, RunEvent::Checkpoint(written(&run).global_step()));
        run.pause();
        run.pause();
        let (_, event) = wait_for(&run, |event| matches!(event, RunEvent::Paused(_)));
        let checkpoint = written(&run);
        let done = checkpoint.global_step();
        assert_eq!(event, RunEvent::Paused(done));
        assert_eq!(run.adapter().unwrap().modules.len(), 14);
        let run = start(&device, TrainingRequest { resume_from: Some(checkpoint), ..request(model.clone()) }).unwrap();
        assert_eq!(run.resumed.as_ref().map(|resumed| resumed.global_step), Some(done));
        run.stop_after_step();
        let (steps, _) = wait_for(&run, |event| matches!(event, RunEvent::Training(TrainingEvent::Finished)));
        // How many steps are done before the run hears of it is the machine's affair.
        assert!(steps.iter().copied().eq(done + 1..=done + steps.len() as u64), "{steps:?} after {done}");
    }
}

#[test]
fn a_request_that_cannot_start_says_why() {
    let device = Device::open(1).unwrap();
    let mut wrong = request(tiny(&device));
    wrong.config.learning_rate = f64::NAN;
    assert_eq!(start(&device, wrong).err().unwrap().code, ErrorCode::InvalidArgument);
}

/// A device that computes as a GPU does: everything by [`crate::ops::Ops`].
fn accelerator() -> Device {
    let ops = Arc::new(CpuOps::<f32>::new(2));
    let others = Others::new(&["gpu:0".to_owned()], Vec::new(), || shared_memory(1, None)).unwrap();
    Device::start(Arc::new(Accelerator { ops, loss_scaling: None, others }), DeviceInfo::of_processor(2)).unwrap()
}

/// Twenty tokens after three, the most likely ones.
fn twenty(device: &Device, model: &LoadedModel, adapter: Option<&LoadedAdapter>) -> Vec<u32> {
    let sampling = SamplingConfig {
        max_new_tokens: 20,
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        seed: 0,
        eos_token_ids: Vec::new(),
    };
    let generation = device.generate(model, adapter, vec![1, 2, 3], sampling).unwrap();
    let mut tokens = Vec::new();
    loop {
        let batch = next(&generation.events);
        tokens.extend(batch.items.iter().filter_map(|(token, _)| token.map(|token| token.id)));
        if let Some(end) = batch.end {
            end.unwrap();
            assert_eq!(batch.items.last().unwrap().1, Some(GenerationEnd::Length));
            return tokens;
        }
    }
}

#[test]
fn generation_is_served_while_a_run_trains() {
    for device in [Device::open(2).unwrap(), accelerator()] {
        let model = tiny(&device);
        let run = start(&device, request(model.clone())).unwrap();
        assert_eq!(twenty(&device, &model, None).len(), 20);
        assert!(next(&run.events).end.is_none(), "training goes on");
    }
}

fn scores(device: &Device, model: &LoadedModel, adapter: Option<&LoadedAdapter>) -> Result<TokenScores> {
    let (answer, wait) = channel();
    device.score(model, adapter, (1..200).collect(), 2, move |scores| answer.send(scores).unwrap());
    wait.recv_timeout(PATIENCE).unwrap()
}

#[test]
fn both_kinds_of_devices_answer_alike() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../test/parity/golden/tied/init_adapter");
    let devices = [Device::open(2).unwrap(), accelerator()];
    let [processor, other] = devices.each_ref().map(|device| {
        let model = tiny(device);
        // Everything is f32 in these files.
        assert_eq!(model.weight_bytes(), 4 * model.metadata.parameter_count);
        let adapter = model.load_adapter(&folder, false).unwrap();
        let alone = (twenty(device, &model, None), scores(device, &model, None).unwrap());
        let with = (twenty(device, &model, Some(&adapter)), scores(device, &model, Some(&adapter)).unwrap());
        assert_ne!(alone.1.logprobs[1], with.1.logprobs[1], "the adapter changes something");
        ([alone, with], model, adapter)
    });
    for ((tokens, scores), (expected_tokens, expected)) in other.0.iter().zip(&processor.0) {
        assert_eq!(tokens, expected_tokens);
        assert_eq!(scores.logprobs.len(), 199);
        assert_eq!(scores.top_token_ids, expected.top_token_ids);
        for (found, expected) in scores.logprobs.iter().zip(&expected.logprobs).skip(1) {
            assert!((found - expected).abs() < 1e-4, "{found}, expected {expected}");
        }
    }
    let error = scores(&devices[1], &other.1, Some(&processor.2)).unwrap_err();
    assert_eq!(error.code, ErrorCode::Internal, "matrices of another kind of device are not read");
}

#[test]
fn weights_count_as_they_are_held() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../test/parity/golden/tied/model");
    let storage = WeightStorage::Int8;
    let [processor, other] = [Device::open(1).unwrap(), accelerator()]
        .map(|device| device.load(&path, storage, EmbeddingPlace::Device).unwrap().weight_bytes());
    // 288 rows of 48 and five norms of 48 in f32. In each of two blocks: query and output 48 × 48, key and value 16 × 48, gate, up and down
    // 112 × 48 in codes, and a scale in f32 for each row.
    let block = 2 * 48 * 48 + 2 * 16 * 48 + 3 * 112 * 48 + 4 * (48 + 16 + 16 + 48 + 112 + 112 + 48);
    assert_eq!(processor, (288 * 48 + 5 * 48) * 4 + 2 * block);
    assert_eq!(other, processor);
}

#[test]
fn what_weights_take_is_known_before_they_are_loaded() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../test/parity/golden/untied/model");
    let storages = [
        WeightStorage::Stored,
        WeightStorage::Bf16,
        WeightStorage::F16,
        WeightStorage::Int8,
        WeightStorage::Nf4 { double_quant: true },
    ];
    for device in [Device::open(1).unwrap(), accelerator()] {
        let prices = device.weight_bytes(&path, &storages, EmbeddingPlace::Device).unwrap();
        for (storage, price) in storages.into_iter().zip(prices) {
            let held = device.load(&path, storage, EmbeddingPlace::Device).unwrap().weight_bytes();
            // Each of some dozens of pieces is rounded up to 256 bytes.
            assert!((held..held + 256 * 40).contains(&price), "{storage:?}: {price}, held are {held}");
        }
    }
    let nothing = Device::open(1).unwrap().weight_bytes(&path.join("none"), &storages, EmbeddingPlace::Device);
    assert_eq!(nothing.unwrap_err().code, ErrorCode::ModelNotFound);
}

#[test]
fn a_dropped_run_ends() {
    let device = Device::open(1).unwrap();
    drop(start(&device, request(tiny(&device))).unwrap());
    let (answer, wait) = channel();
    device.score(&tiny(&device), None, vec![1, 2], 1, move |scores| answer.send(scores).unwrap());
    assert_eq!(wait.recv_timeout(PATIENCE).unwrap().unwrap().logprobs.len(), 2);
}
