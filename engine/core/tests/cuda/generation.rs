//! Generation and scores on the GPU, beside the processor: in exact f32 by the engine's parts, in bf16 through the whole device.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;

use luthier_core::device::{Device, GenerationEnd, LoadedAdapter, LoadedModel};
use luthier_core::generate::{OpsModel, OpsSequence, SamplingConfig, Scoring, Sequence, TokenScores};
use luthier_core::load;
use luthier_core::lora::LoraAdapter;
use luthier_core::lora::peft::read_adapter;
use luthier_core::model::BaseModel;
use luthier_core::ops::cpu::CpuOps;
use luthier_core::ops::cuda::NumberType;
use luthier_core::ops::{EmbeddingPlace, Ops};
use luthier_core::{ErrorCode, WeightStorage};

use crate::compare::open;

fn ordinal() -> usize {
    std::env::var("LUTHIER_TEST_GPU").map_or(0, |text| text.parse().unwrap())
}

fn folder(case: &str) -> PathBuf {
    let package = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    PathBuf::from(package).join("../../test/parity/golden").join(case)
}

fn ids(count: u32) -> Vec<u32> {
    (0..count).map(|i| (i * i * 31 + i * 7 + 5) % 288).collect()
}

/// A sequence with the tiny model and its adapter.
fn sequence<O: Ops>(ops: O, case: &str, storage: WeightStorage) -> OpsSequence<O> {
    let ops = Arc::new(ops);
    let files = load::open(&folder(case).join("model")).unwrap();
    let base = Arc::new(BaseModel::load(&*ops, &*files, storage).unwrap());
    let (peft, _) = read_adapter(&folder(case).join("init_adapter"), files.config(), None).unwrap();
    let adapter = LoraAdapter::from_peft(&*ops, &base.config, &peft).unwrap();
    OpsSequence::new(Arc::new(OpsModel::new(ops, base).unwrap()), Some(Arc::new(adapter)))
}

/// Logits after a prompt in two pieces, and after each of some more tokens.
fn logits<O: Ops>(ops: O, case: &str, storage: WeightStorage) -> Vec<Vec<f32>> {
    let (mut sequence, ids) = (sequence(ops, case, storage), ids(320));
    sequence.reserve(320);
    sequence.prefill(&ids[..256]).unwrap();
    sequence.prefill(&ids[256..310]).unwrap();
    let mut rows = vec![Vec::new()];
    sequence.last_logits(&mut rows[0]).unwrap();
    for id in &ids[310..] {
        let mut row = Vec::new();
        sequence.decode(*id, &mut row).unwrap();
        rows.push(row);
    }
    rows
}

/// Largest difference in parts of the largest logit.
fn difference(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let all = || found.iter().flatten().zip(expected.iter().flatten());
    assert!(found.iter().flatten().count() == 11 * 288 && all().count() == 11 * 288);
    assert!(found.iter().flatten().all(|logit| logit.is_finite()));
    let largest = expected.iter().flatten().fold(0f32, |largest, logit| largest.max(logit.abs()));
    all().map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / largest
}

#[test]
fn decoded_logits_are_those_of_the_processor() {
    for case in ["tied", "untied"] {
        for storage in [WeightStorage::Stored, WeightStorage::Int8, WeightStorage::Nf4 { double_quant: true }] {
            let expected = logits(CpuOps::<f32>::new(4), case, storage);
            for (kind, tolerance) in [(NumberType::F32, 1e-4), (NumberType::F16, 0.01), (NumberType::BF16, 0.08)] {
                let found = logits(open(kind), case, storage);
                let off = difference(&found, &expected);
                assert!(off <= tolerance, "{case}, {}, {kind:?}: off by {off:e}", storage.name());
            }
        }
    }
}

#[test]
fn decoding_allocates_nothing_and_a_sequence_gives_its_memory_back() {
    let ops = Arc::new(open(NumberType::BF16));
    let files = load::open(&folder("tied").join("model")).unwrap();
    let base = Arc::new(BaseModel::load(&*ops, &*files, WeightStorage::Int8).unwrap());
    let model = Arc::new(OpsModel::new(ops.clone(), base).unwrap());
    let run = || {
        let mut sequence = OpsSequence::new(model.clone(), None);
        sequence.reserve(100);
        sequence.prefill(&ids(20)).unwrap();
        let mut logits = Vec::new();
        sequence.decode(1, &mut logits).unwrap();
        let first = ops.memory().allocated_bytes;
        for _ in 0..70 {
            sequence.decode(2, &mut logits).unwrap();
        }
        assert_eq!(ops.memory().allocated_bytes, first);
        first
    };
    let first = run();
    let between = ops.memory().allocated_bytes;
    // Two blocks, keys and values of two heads of 8 for 100 positions in 16 bits, and the stream of 100 rows of 48.
    assert_eq!(first - between, 2 * 2 * 100 * 16 * 2 + 100 * 48 * 2);
    run();
    assert_eq!(ops.memory().allocated_bytes, between);
}

#[test]
fn a_cache_that_does_not_fit_fails_its_request_only() {
    let ops = Arc::new(open(NumberType::BF16));
    let files = load::open(&folder("tied").join("model")).unwrap();
    let base = Arc::new(BaseModel::load(&*ops, &*files, WeightStorage::Stored).unwrap());
    let model = Arc::new(OpsModel::new(ops.clone(), base).unwrap());
    let before = ops.memory().allocated_bytes;
    let mut huge = OpsSequence::new(model.clone(), None);
    // Keys of two heads of 8 in two blocks, in 16 bits: more than the GPU has.
    let positions = ops.describe().unwrap().1 / 64 + 1;
    huge.reserve(positions as usize);
    let error = huge.prefill(&[1]).unwrap_err();
    assert_eq!(error.code, ErrorCode::OutOfMemory);
    assert!(error.message.contains(&format!("values of {positions} tokens")), "{error}");
    assert!(error.message.contains(&format!("allocating {} bytes", positions * 64)), "{error}");
    assert_eq!(ops.memory().allocated_bytes, before);
    let mut small = OpsSequence::new(model, None);
    small.reserve(2);
    small.prefill(&[1, 2]).unwrap();
}

fn load(device: &Device) -> (LoadedModel, LoadedAdapter) {
    let model = device.load(&folder("tied").join("model"), WeightStorage::Stored, EmbeddingPlace::Device).unwrap();
    let adapter = model.load_adapter(&folder("tied").join("init_adapter"), false).unwrap();
    (model, adapter)
}

fn scores(device: &Device, model: &LoadedModel, adapter: Option<&LoadedAdapter>) -> TokenScores {
    let (answer, wait) = channel();
    device.score(model, adapter, ids(300), 5, move |scores| answer.send(scores).unwrap());
    wait.recv().unwrap().unwrap()
}

/// A device with a GPU has one copy of the weights, there, and answers as the processor does.
#[test]
fn a_gpu_device_generates_and_scores() {
    let (processor, gpu) = (Device::open(4).unwrap(), Device::open_gpus(&[ordinal()], 4, NumberType::BF16).unwrap());
    let ((model, adapter), (gpu_model, gpu_adapter)) = (load(&processor), load(&gpu));
    assert_eq!(gpu_model.weight_bytes(), model.weight_bytes());
    assert_eq!(gpu_model.storage_type(), "f32");
    for with in [false, true] {
        let expected = scores(&processor, &model, with.then_some(&adapter));
        let found = scores(&gpu, &gpu_model, with.then_some(&gpu_adapter));
        assert_eq!((found.logprobs.len(), found.top_token_ids.len()), (300, 1500));
        for (found, expected) in found.logprobs.iter().zip(&expected.logprobs).skip(1) {
            assert!((found - expected).abs() < 0.2, "{found}, expected {expected}");
        }
    }
    // An adapter of another device is refused, not misread.
    let (answer, wait) = channel();
    gpu.score(&gpu_model, Some(&adapter), ids(3), 0, move |scores| answer.send(scores).unwrap());
    assert_eq!(wait.recv().unwrap().unwrap_err().code, ErrorCode::Internal);
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
    let run = gpu.generate(&gpu_model, Some(&gpu_adapter), ids(9), sampling).unwrap();
    let mut tokens = Vec::new();
    loop {
        let (sender, receiver) = channel();
        run.events.next(move |batch| sender.send(batch).unwrap());
        let batch = receiver.recv().unwrap();
        tokens.extend(batch.items.iter().filter_map(|(token, _)| *token));
        if let Some(end) = batch.end {
            end.unwrap();
            assert_eq!(batch.items.last().unwrap().1, Some(GenerationEnd::Length));
            break;
        }
    }
    assert_eq!(tokens.len(), 20);
    // Under the processor's exact model the tokens are as likely as the GPU says.
    let mut all = ids(9);
    all.extend(tokens.iter().map(|token| token.id));
    let (answer, wait) = channel();
    processor.score(&model, Some(&adapter), all, 0, move |scores| answer.send(scores).unwrap());
    let exact = wait.recv().unwrap().unwrap();
    for (token, exact) in tokens.iter().zip(&exact.logprobs[9..]) {
        assert!((token.logprob - exact).abs() < 0.2, "{}, expected {exact}", token.logprob);
    }
}

/// Scores of the parts in f32, beside those of the processor's exact products.
#[test]
fn scores_in_single_precision() {
    let score = |sequence: Box<dyn Sequence>| {
        let mut scoring = Scoring::new(sequence, ids(511), 3).unwrap();
        loop {
            if let Some(scores) = scoring.advance().unwrap() {
                return scores;
            }
        }
    };
    let expected = score(Box::new(sequence(CpuOps::<f32>::new(4), "untied", WeightStorage::Stored)));
    let gpu = open(NumberType::F32);
    let found = score(Box::new(sequence(gpu, "untied", WeightStorage::Stored)));
    for (found, expected) in found.logprobs.iter().zip(&expected.logprobs).skip(1) {
        assert!((found - expected).abs() < 1e-4, "{found}, expected {expected}");
    }
}
