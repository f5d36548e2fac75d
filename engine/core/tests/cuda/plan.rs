//! The memory plan beside what a run takes on the GPU.

use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use luthier_core::model::{BaseModel, Examples};
use luthier_core::ops::cuda::{CudaOps, NumberType};
use luthier_core::ops::{EmbeddingPlace, Ops};
use luthier_core::train::{Progress, Recompute, TrainConfig, Trainer};
use luthier_core::{ErrorCode, StoredType, WeightStorage};

use crate::random_model::{RandomModel, examples, settings};

/// Of the plan, which counts what the device counts, but for cuDNN's workspace: it is asked for at the bounds of all micro-batches.
const TOLERANCE: f64 = 0.03;
const VOCABULARY: usize = 1024;

fn open(kind: NumberType) -> Arc<CudaOps> {
    let ordinal = std::env::var("LUTHIER_TEST_GPU").map_or(0, |text| text.parse().unwrap());
    Arc::new(CudaOps::open(ordinal, kind).unwrap())
}

/// With an output layer of its own.
fn model(stored: StoredType) -> RandomModel {
    RandomModel::new([4, 4, 2, 64, 256, 512, VOCABULARY], false, stored, stored)
}

/// Trains to the end and returns the bytes that were allocated at most and those planned. The locked bytes are the planned ones.
fn run(
    ops: &Arc<CudaOps>,
    base: Arc<BaseModel<CudaOps>>,
    config: TrainConfig,
    evaluation: Option<[usize; 2]>,
) -> [u64; 2] {
    let before = ops.memory();
    let evaluation = evaluation.map(|lengths| Box::new(examples(&lengths, 30, VOCABULARY)) as Box<dyn Examples>);
    let train = examples(&[500, 300, 450, 90], 200, VOCABULARY);
    let what = format!("{:?}, {config:?}", base.forms.layers[0][0]);
    let mut trainer = Trainer::new(ops.clone(), base, config, train, evaluation, None).unwrap();
    let memory = trainer.estimate().memory.clone();
    assert_eq!(
        memory.held_bytes, before.allocated_bytes,
        "{what}: weights, and what the device took when it was opened"
    );
    assert!(memory.free_bytes.is_some_and(|free| free > 0) && memory.fits, "{what}");
    while trainer.advance().unwrap() != Progress::Finished {}
    let found = ops.memory();
    assert_eq!(found.pinned_host_bytes, memory.plan.pinned_host_bytes, "{what}: locked memory of the host");
    [found.peak_allocated_bytes, memory.plan.total_bytes()]
}

fn cases() -> impl Iterator<Item = (NumberType, StoredType, WeightStorage)> {
    let types = [StoredType::BF16, StoredType::F32, StoredType::Ggml(GgmlDType::Q8_0)];
    let kinds =
        [NumberType::BF16, NumberType::F32].into_iter().flat_map(move |kind| types.map(|stored| (kind, stored)));
    kinds.flat_map(|(kind, stored)| WeightStorage::ALL.map(|storage| (kind, stored, storage)))
}

#[test]
fn a_run_on_the_gpu_takes_what_was_planned() {
    for (kind, stored, storage) in cases() {
        for (recompute, evaluation) in
            [(Recompute::Auto, None), (Recompute::Layers(2), Some([40; 2])), (Recompute::All, Some([700; 2]))]
        {
            let ops = open(kind);
            let base = Arc::new(BaseModel::load(&*ops, &model(stored), storage).unwrap());
            let [found, planned] = run(&ops, base, settings(8, 2, 2, recompute), evaluation);
            let off = (found as f64 / planned as f64 - 1.0).abs();
            let what = format!("{stored:?} as {} on {kind:?}, {recompute:?}", storage.name());
            assert!(off <= TOLERANCE, "{what}: {found} bytes, planned {planned}");
        }
    }
}

/// To the byte where attention is not cuDNN's; ranks that the low-rank kernels take and that they do not; layer inputs and the embedding table on
/// the host.
#[test]
fn with_own_attention_the_plan_is_exact() {
    for (kind, stored, storage) in cases() {
        for (r, offload_activations, place) in
            [(8, false, EmbeddingPlace::Device), (40, true, EmbeddingPlace::Device), (17, true, EmbeddingPlace::Host)]
        {
            let ops = Arc::into_inner(open(kind)).map(|ops| Arc::new(ops.without_cudnn())).unwrap();
            // With biases and norms of heads in the first of the three.
            let model = if r == 8 { model(stored).varied(false) } else { model(stored) };
            let base = Arc::new(BaseModel::load_placed(&*ops, &model, storage, place).unwrap());
            let pinned = ops.memory().pinned_host_bytes;
            assert_eq!(pinned > 0, place == EmbeddingPlace::Host);
            let mut config = TrainConfig { offload_activations, ..settings(r, 2, 2, Recompute::Layers(3)) };
            config.lora.lora_dropout = if r == 17 { 0.1 } else { 0.0 };
            if r == 8 {
                // Layers that share an input, but not a rank.
                config.lora.targets.rank_pattern =
                    [("k_proj", 5), ("up_proj", 40)].map(|(k, r)| (k.to_owned(), r)).into();
            }
            let [found, planned] = run(&ops, base, config, Some([40; 2]));
            assert_eq!(found, planned, "{stored:?} as {} on {kind:?}, rank {r}, {place:?}", storage.name());
        }
    }
}

/// Sequences of two examples each, and one micro-batch of the largest size that was planned.
#[test]
fn a_packed_run_on_the_gpu_takes_what_was_planned() {
    for kind in [NumberType::BF16, NumberType::F32] {
        let config = TrainConfig { packing_length: Some(800), ..settings(8, 1, 1, Recompute::Layers(2)) };
        let load =
            |ops: &CudaOps| Arc::new(BaseModel::load(ops, &model(StoredType::BF16), WeightStorage::Stored).unwrap());
        let own = Arc::into_inner(open(kind)).map(|ops| Arc::new(ops.without_cudnn())).unwrap();
        let [found, planned] = run(&own, load(&own), config.clone(), Some([40; 2]));
        assert_eq!(found, planned, "{kind:?}");
        let ops = open(kind);
        let [found, planned] = run(&ops, load(&ops), config, Some([40; 2]));
        assert!((found as f64 / planned as f64 - 1.0).abs() <= TOLERANCE, "{kind:?}: {found} bytes, planned {planned}");
    }
}

/// Some 400 GB of activations: refused before anything is allocated, with the numbers and something that fits.
#[test]
fn a_run_that_does_not_fit_on_the_gpu_is_refused_before_it_takes_anything() {
    let ops = open(NumberType::BF16);
    let wide = RandomModel::new([2, 1, 1, 64, 64, 65_536, VOCABULARY], true, StoredType::BF16, StoredType::BF16);
    let base = Arc::new(BaseModel::load(&*ops, &wide, WeightStorage::Stored).unwrap());
    let before = ops.memory();
    let (train, config) = (examples(&[4000; 128], 10, VOCABULARY), settings(8, 128, 1, Recompute::Auto));
    let error = Trainer::new(ops.clone(), base.clone(), config, train, None, None).err().expect("it cannot fit");
    assert_eq!(error.code, ErrorCode::OutOfMemory);
    assert!(error.message.contains("per_device_train_batch_size"), "{}", error.message);
    assert_eq!(ops.memory(), before);
}
