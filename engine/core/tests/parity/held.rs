//! Runs on weights held in another type beside runs on the same weights, dequantized and stored as f32: the same numbers.

use std::sync::{Arc, Mutex};

use luthier_core::generate::{CpuSequence, GeneratedToken, Progress, SamplingConfig, Session};
use luthier_core::load::{self, ModelFiles};
use luthier_core::lora::peft::PeftAdapter;
use luthier_core::model::{BaseModel, LINEAR_MODULES, TensorSource};
use luthier_core::ops::Ops;
use luthier_core::ops::cpu::decode::CpuDecoder;
use luthier_core::ops::cpu::decode_model::{DecodeAdapter, DecodeModel};
use luthier_core::ops::cpu::{CpuOps, Real};
use luthier_core::quant::{convert, dequantize};
use luthier_core::train::{Progress as TrainingProgress, TrainConfig, Trainer, TrainingEvent};
use luthier_core::{HostTensor, ModelConfig, Result, StoredType, TensorBytes, WeightStorage};

use crate::golden::{Golden, close};

type Base<E> = Arc<BaseModel<CpuOps<E>>>;

/// A model whose linear weights are what remains of them in a type, stored as f32.
struct Rounded {
    files: Box<dyn ModelFiles>,
    storage: WeightStorage,
}

impl TensorSource for Rounded {
    fn config(&self) -> &ModelConfig {
        self.files.config()
    }

    fn tensor(&self, name: &str) -> Result<HostTensor> {
        let tensor = self.files.tensor(name)?;
        if !name.contains("_proj") {
            return Ok(tensor);
        }
        let values = dequantize(&convert(name, tensor.clone(), self.storage)?);
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Ok(HostTensor::new(StoredType::F32, tensor.shape, TensorBytes::Owned(Arc::from(bytes))))
    }
}

fn train<E: Real>(golden: &Golden, ops: &Arc<CpuOps<E>>, base: &Base<E>) -> (Vec<(f64, f64)>, PeftAdapter) {
    let config = TrainConfig { max_steps: Some(8), ..golden.config() };
    let initial = Some(golden.adapter("init_adapter"));
    let mut trainer = Trainer::new(ops.clone(), base.clone(), config, golden.train(), None, initial).unwrap();
    let mut steps = Vec::new();
    loop {
        match trainer.advance().unwrap() {
            TrainingProgress::Event(TrainingEvent::Step(step)) => steps.push((step.loss, step.grad_norm)),
            TrainingProgress::Event(TrainingEvent::Finished) => return (steps, trainer.adapter().unwrap()),
            _ => {}
        }
    }
}

fn generate(base: &Base<f32>, adapter: &PeftAdapter) -> Vec<GeneratedToken> {
    let model = Arc::new(DecodeModel::new(base));
    let adapter = Arc::new(DecodeAdapter::new(&base.config, adapter));
    let sampling = SamplingConfig {
        max_new_tokens: 12,
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        seed: 0,
        eos_token_ids: Vec::new(),
    };
    let sequence = CpuSequence::new(Arc::new(Mutex::new(CpuDecoder::new(2))), model, Some(adapter));
    let mut session = Session::new(Box::new(sequence), vec![1, 5, 9, 200], sampling).unwrap();
    let mut tokens = Vec::new();
    loop {
        match session.advance().unwrap() {
            Progress::Token { token, .. } => tokens.push(token),
            Progress::Prefill { .. } => {}
            Progress::Finished => return tokens,
        }
    }
}

fn rounded<E: Real>(golden: &Golden, ops: &CpuOps<E>, storage: WeightStorage) -> Base<E> {
    let files = load::open(&golden.folder.join("model")).unwrap();
    Arc::new(BaseModel::load(ops, &Rounded { files, storage }, WeightStorage::Stored).unwrap())
}

/// Bit for bit in f64, which reads every weight through its f32 numbers. The tiny models are 48 and 112 wide: nf4's blocks cross the ends of
/// rows.
#[test]
fn training_equals_that_on_the_dequantized_weights() {
    for case in ["tied", "untied"] {
        let golden = Golden::open(case);
        let ops = Arc::new(CpuOps::<f64>::new(2));
        let exact = train(&golden, &ops, &golden.model(&*ops)).0[0].0;
        for storage in WeightStorage::ALL.into_iter().skip(1) {
            let name = storage.name();
            let (steps, adapter) = train(&golden, &ops, &golden.model_held(&*ops, storage));
            let expected = train(&golden, &ops, &rounded(&golden, &ops, storage));
            assert!(steps == expected.0 && adapter == expected.1, "{case} {name}: {steps:?} {:?}", expected.0);
            // The weights are near the exact ones but not the same.
            let bound = if matches!(storage, WeightStorage::Nf4 { .. }) { 0.1 } else { 0.02 };
            let first = steps[0].0;
            assert!(first != exact && (first - exact).abs() < bound * exact, "{case} {name}: {first} {exact}");
        }
    }
}

/// In f32 weights stored as f32 are read in place and summed in another order in the backward pass: equal within rounding. Generation, which
/// has no backward pass, is equal bit for bit.
#[test]
fn f32_training_and_generation_equal_those_on_the_dequantized_weights() {
    for case in ["tied", "untied"] {
        let golden = Golden::open(case);
        let ops = Arc::new(CpuOps::<f32>::new(2));
        for storage in WeightStorage::ALL.into_iter().skip(1) {
            let name = storage.name();
            let (held, rounded) = (golden.model_held(&*ops, storage), rounded(&golden, &ops, storage));
            let (steps, adapter) = train(&golden, &ops, &held);
            let expected = train(&golden, &ops, &rounded).0;
            assert_eq!(steps.len(), expected.len());
            assert_eq!(steps[0].0, expected[0].0, "{case} {name}: the first loss has seen no backward pass");
            for (step, expected) in steps.iter().zip(&expected) {
                close(&format!("{case} {name} loss"), step.0, expected.0, 1e-6);
                close(&format!("{case} {name} grad_norm"), step.1, expected.1, 1e-5);
            }
            assert_eq!(generate(&held, &adapter), generate(&rounded, &adapter), "{case} {name}");
        }
    }
}

#[test]
fn only_linear_weights_of_blocks_change_their_type() {
    for case in ["tied", "untied"] {
        let golden = Golden::open(case);
        let ops = CpuOps::<f32>::new(1);
        let before = ops.memory().allocated_bytes;
        let base = golden.model_held(&ops, WeightStorage::Nf4 { double_quant: true });
        assert_eq!(base.embed_tokens.tensor().stored, StoredType::F32);
        assert_eq!(base.output_weight().tensor().stored, StoredType::F32);
        assert_eq!(base.lm_head.is_some(), case == "untied");
        let mut bytes = 0;
        for layer in &base.layers {
            for module in LINEAR_MODULES {
                let tensor = layer.linear(module).weight.tensor();
                assert_eq!(tensor.stored, StoredType::Nf4);
                bytes += tensor.size_bytes() as u64;
            }
        }
        // Beside norms, which are small, the device's memory is these.
        let allocated = ops.memory().allocated_bytes - before;
        assert!((bytes..bytes + 4096).contains(&allocated), "{allocated} bytes allocated, {bytes} of weights");
    }
}
