//! PEFT's adapters here, and ours in PEFT: every setting that says what is adapted, over the golden files of `test/parity/make_adapters.py`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use luthier_core::generate::{CpuSequence, Sequence};
use luthier_core::lora::peft::{PeftAdapter, read_adapter, write_adapter};
use luthier_core::lora::{LoraAdapter, LoraConfig, LoraLayout};
use luthier_core::model::{
    Activations, BaseModel, Decoder, Keep, LogitsMemory, PackedBatch, Scratch, TokenExamples, rope_angles,
};
use luthier_core::ops::cpu::CpuOps;
use luthier_core::ops::cpu::decode::CpuDecoder;
use luthier_core::ops::cpu::decode_model::{DecodeAdapter, DecodeModel};
use luthier_core::ops::{Ops, View};
use luthier_core::train::{Progress, TrainConfig, Trainer};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::Value;

use crate::device::on_device;
use crate::golden::Golden;

const CASES: [&str; 12] = [
    "names",
    "all-linear",
    "regex",
    "regex-rules",
    "layers",
    "layers-pattern",
    "exclude",
    "exclude-regex",
    "rslora",
    "patterns",
    "rslora-patterns",
    "bin",
];

struct Case {
    adapter: PeftAdapter,
    ids: Vec<u32>,
    /// By module path: rank and factor.
    modules: Value,
    /// `[ids, vocabulary]`
    logits: Vec<f32>,
}

fn folder(golden: &Golden, case: &str) -> PathBuf {
    golden.folder.join("../adapters").join(case)
}

fn open(golden: &Golden, case: &str) -> Case {
    let folder = folder(golden, case);
    let files = luthier_core::load::open(&golden.folder.join("model")).unwrap();
    let expected: Value = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let bytes = std::fs::read(folder.join("logits.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let logits = tensors.tensor("logits").unwrap();
    Case {
        adapter: read_adapter(&folder, files.config(), None).unwrap_or_else(|error| panic!("{case}: {error}")).0,
        ids: expected["input_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect(),
        modules: expected["modules"].clone(),
        logits: logits.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
    }
}

/// One pass over all ids, as training makes it.
fn logits<O: Ops>(ops: &O, base: &BaseModel<O>, adapter: &PeftAdapter, ids: &[u32]) -> Vec<f32> {
    let (config, count) = (&base.config, ids.len());
    let adapter = LoraAdapter::from_peft(ops, config, adapter).unwrap();
    let examples = TokenExamples { input_ids: ids.to_vec(), labels: vec![0; count], offsets: vec![0, count as u32] };
    let mut batch = PackedBatch::new(ops, count).unwrap();
    batch.fill(ops, &examples, &[0]).unwrap();
    batch.select_all();
    let angles = rope_angles(ops, config, count).unwrap();
    let decoder = Decoder { ops, base, adapter: &adapter, angles: &angles, dropout: None, noise: None };
    let mut activations = Activations::new(ops, config, &adapter.layout, count, Keep::Nothing).unwrap();
    let mut scratch = Scratch::new(ops, config, &adapter.layout, count, false).unwrap();
    decoder.forward(&batch, &mut activations, &mut scratch).unwrap();
    let (mut head, mut out) = (LogitsMemory::new(ops, config, count).unwrap(), Vec::new());
    let hidden = activations.hidden(config.num_hidden_layers);
    decoder.logits(count, View::from(hidden), &mut head, &mut out).unwrap();
    out
}

/// To 1e-5 of the largest logit.
fn assert_close(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f32, |largest, logit| largest.max(logit.abs()));
    let off = found.iter().zip(expected).fold(0f32, |off, (a, b)| off.max((a - b).abs()));
    assert!(largest > 1.0 && off <= 1e-5 * largest, "{what}: off by {off:e} of {largest}");
}

#[test]
fn modules_ranks_and_factors_are_pefts() {
    let golden = Golden::open("tied");
    let base = golden.model(&CpuOps::<f32>::new(1));
    for case in CASES {
        let Case { adapter, modules, .. } = open(&golden, case);
        let PeftAdapter { r, lora_alpha, lora_dropout, use_rslora, ref targets, .. } = adapter;
        let lora = LoraConfig { r, lora_alpha, lora_dropout, targets: targets.clone(), use_rslora, seed: 0 };
        let anew = LoraLayout::for_config(&base.config, &lora).unwrap();
        assert_eq!(anew, LoraLayout::of_peft(&base.config, &adapter).unwrap(), "{case}");
        let expected = modules.as_object().unwrap();
        assert_eq!(anew.modules().count(), expected.len(), "{case}");
        for module in anew.modules() {
            let expected = &expected[&module.path()];
            assert_eq!(module.r as u64, expected["r"].as_u64().unwrap(), "{case}: {}", module.path());
            assert_eq!(module.scale, expected["scale"].as_f64().unwrap(), "{case}: {}", module.path());
        }
    }
}

fn pefts_logits<O: Ops>(ops: Arc<O>) {
    let golden = Golden::open("tied");
    let base = golden.model(&*ops);
    for case in CASES {
        let Case { adapter, ids, logits: expected, .. } = open(&golden, case);
        assert_close(case, &logits(&*ops, &base, &adapter, &ids), &expected);
    }
}

#[test]
fn adapters_of_peft_have_its_logits() {
    on_device!(pefts_logits());
}

#[test]
fn adapters_of_peft_have_its_logits_when_decoded_on_the_processor() {
    let golden = Golden::open("tied");
    let model = Arc::new(DecodeModel::new(&golden.model(&CpuOps::new(1))));
    let vocab_size = model.config().vocab_size;
    for case in CASES {
        let Case { adapter, ids, logits: expected, .. } = open(&golden, case);
        let decoder = Arc::new(Mutex::new(CpuDecoder::new(2)));
        let adapter = Arc::new(DecodeAdapter::new(model.config(), &adapter));
        let new = || {
            let mut sequence = CpuSequence::new(decoder.clone(), model.clone(), Some(adapter.clone()));
            sequence.reserve(ids.len());
            sequence
        };
        let (mut whole, mut stepwise, mut found) = (new(), new(), Vec::new());
        whole.prefill(&ids).unwrap();
        whole.logits(0..ids.len(), &mut found).unwrap();
        assert_close(case, &found, &expected);
        for (id, expected) in ids.iter().zip(expected.chunks_exact(vocab_size)) {
            stepwise.decode(*id, &mut found).unwrap();
            assert_close(case, &found, expected);
        }
    }
}

/// A few steps from a new adapter with these settings.
fn train(
    golden: &Golden,
    base: &Arc<BaseModel<CpuOps<f32>>>,
    ops: &Arc<CpuOps<f32>>,
    like: &PeftAdapter,
) -> PeftAdapter {
    let PeftAdapter { r, lora_alpha, use_rslora, ref targets, .. } = *like;
    let lora = LoraConfig { r, lora_alpha, lora_dropout: 0.0, targets: targets.clone(), use_rslora, seed: 3 };
    let config = TrainConfig { lora, max_steps: Some(3), learning_rate: 0.02, eval_steps: None, ..golden.config() };
    let mut trainer = Trainer::new(ops.clone(), base.clone(), config, golden.train(), None, None).unwrap();
    while trainer.advance().unwrap() != Progress::Finished {}
    trainer.adapter().unwrap()
}

/// Trained here with each case's settings, written, and read back. With `LUTHIER_PARITY_OUT`, a folder, they stay there with our logits, for
/// `test/parity/check_adapters.py` to load into PEFT.
#[test]
fn adapters_trained_here_come_back_from_their_files() {
    let golden = Golden::open("tied");
    let ops = Arc::new(CpuOps::<f32>::new(2));
    let base = golden.model(&*ops);
    let kept = std::env::var_os("LUTHIER_PARITY_OUT").map(PathBuf::from);
    let temporary = std::env::temp_dir().join(format!("luthier-adapters-{}", std::process::id()));
    let parent: &Path = kept.as_deref().unwrap_or(&temporary);
    for case in CASES {
        let like = open(&golden, case);
        let adapter = train(&golden, &base, &ops, &like.adapter);
        assert!(adapter.modules.values().all(|module| module.b.iter().any(|b| *b != 0.0)), "{case}: nothing learned");
        let folder = parent.join(case);
        std::fs::create_dir_all(&folder).unwrap();
        write_adapter(&folder, &adapter).unwrap();
        let (read, _) = read_adapter(&folder, &base.config, None).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(read.modules, adapter.modules, "{case}");
        if kept.is_some() {
            let found = logits(&*ops, &base, &read, &like.ids);
            let bytes: Vec<u8> = found.iter().flat_map(|logit| logit.to_le_bytes()).collect();
            let shape = vec![like.ids.len(), base.config.vocab_size];
            let view = TensorView::new(Dtype::F32, shape, &bytes).unwrap();
            serialize_to_file([("logits", view)], None, &folder.join("logits.safetensors")).unwrap();
        }
    }
    if kept.is_none() {
        std::fs::remove_dir_all(&temporary).unwrap();
    }
}
