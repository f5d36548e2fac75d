//! The memory plan beside what a run takes on the GPU.

use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use luthier_core::model::BaseModel;
use luthier_core::ops::Ops;
use luthier_core::ops::cuda::{CudaOps, NumberType};
use luthier_core::train::{Progress, Recompute, Trainer};
use luthier_core::{ErrorCode, StoredType, WeightStorage};

use crate::random_model::{RandomModel, examples, settings};

/// Of the plan; the plan counts what the device counts, so that only the order in which scratch grows may tell them apart.
const TOLERANCE: f64 = 0.03;
const VOCABULARY: usize = 1024;

fn open(kind: NumberType) -> Arc<CudaOps> {
    let ordinal = std::env::var("LUTHIER_TEST_GPU").map_or(0, |text| text.parse().unwrap());
    Arc::new(CudaOps::open(ordinal, kind).unwrap())
}

fn model(stored: StoredType) -> RandomModel {
    RandomModel::new([3, 4, 2, 64, 256, 512, VOCABULARY], true, stored, StoredType::F32)
}

#[test]
fn a_run_on_the_gpu_takes_what_was_planned() {
    let q8_0 = StoredType::Ggml(GgmlDType::Q8_0);
    let types = [StoredType::BF16, StoredType::F32, q8_0];
    let cases = [NumberType::BF16, NumberType::F32].into_iter().flat_map(|kind| types.map(|stored| (kind, stored)));
    for (kind, stored) in cases {
        for storage in WeightStorage::ALL {
            for (recompute, evaluation) in
                [(Recompute::Auto, None), (Recompute::Layers(2), Some([40; 2])), (Recompute::All, Some([700; 2]))]
            {
                let ops = open(kind);
                let base = Arc::new(BaseModel::load(&*ops, &model(stored), storage).unwrap());
                let loaded = ops.memory().allocated_bytes;
                let evaluation = evaluation.map(|lengths| examples(&lengths, 30, VOCABULARY));
                let train = examples(&[500, 300, 450, 90], 200, VOCABULARY);
                let config = settings(8, 2, 2, recompute);
                let mut trainer = Trainer::new(ops.clone(), base, config, train, evaluation, None).unwrap();
                let memory = trainer.estimate().memory.clone();
                while trainer.advance().unwrap() != Progress::Finished {}
                let what = format!("{stored:?} as {} on {kind:?}, {recompute:?}", storage.name());
                assert_eq!(memory.held_bytes, loaded, "{what}: weights, and what the device took when it was opened");
                let (found, planned) = (ops.memory().peak_allocated_bytes as f64, memory.plan.total_bytes() as f64);
                let off = (found / planned - 1.0).abs();
                assert!(off <= TOLERANCE, "{what}: {found} bytes, planned {planned}");
                assert!(memory.free_bytes.is_some_and(|free| free > 0) && memory.fits, "{what}");
            }
        }
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
    let error = Trainer::new(ops.clone(), base, config, train, None, None).err().expect("it cannot fit");
    assert_eq!(error.code, ErrorCode::OutOfMemory);
    assert!(error.message.contains("per_device_train_batch_size"), "{}", error.message);
    assert_eq!(ops.memory(), before);
}
