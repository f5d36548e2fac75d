//! Greedy tokens beside transformers, from the adapter that training starts from and from the one trained here.

use std::sync::{Arc, Mutex};

use luthier_core::generate::{CpuSequence, OpsModel, OpsSequence, Progress, SamplingConfig, Sequence, Session};
use luthier_core::lora::LoraAdapter;
use luthier_core::lora::peft::PeftAdapter;
use luthier_core::ops::Ops;
use luthier_core::ops::cpu::CpuOps;
use luthier_core::ops::cpu::decode::CpuDecoder;
use luthier_core::ops::cpu::decode_model::{DecodeAdapter, DecodeModel};
use serde_json::Value;

use crate::curve::every_step;
use crate::device::on_device;
use crate::golden::Golden;

/// A sequence that decodes on the processor.
pub fn on_processor(golden: &Golden, adapter: &PeftAdapter) -> Box<dyn Sequence> {
    let model = Arc::new(DecodeModel::new(&golden.model(&CpuOps::new(1))));
    let adapter = Arc::new(DecodeAdapter::new(model.config(), adapter));
    Box::new(CpuSequence::new(Arc::new(Mutex::new(CpuDecoder::new(2))), model, Some(adapter)))
}

/// A sequence by a device's operations.
pub fn by_operations<O: Ops>(ops: Arc<O>, golden: &Golden, adapter: &PeftAdapter) -> Box<dyn Sequence> {
    let base = golden.model(&*ops);
    let adapter = LoraAdapter::from_peft(&*ops, &base.config, adapter).unwrap();
    Box::new(OpsSequence::new(Arc::new(OpsModel::new(ops, base).unwrap()), Some(Arc::new(adapter))))
}

pub fn same_tokens(sequence: Box<dyn Sequence>, expected: &Value) {
    let list = |name: &str| -> Vec<u32> {
        expected[name].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let tokens = list("tokens");
    assert!(!tokens.is_empty());
    let sampling = SamplingConfig {
        max_new_tokens: tokens.len(),
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        seed: 0,
        eos_token_ids: Vec::new(),
    };
    let mut session = Session::new(sequence, list("prompt"), sampling).unwrap();
    let mut found = Vec::new();
    loop {
        match session.advance().unwrap() {
            Progress::Token { token, .. } => found.push(token.id),
            Progress::Prefill { .. } => {}
            Progress::Finished => break,
        }
    }
    assert_eq!(found, tokens);
}

fn before_and_after(case: &str, sequence: impl Fn(&Golden, &PeftAdapter) -> Box<dyn Sequence>) {
    let golden = Golden::open(case);
    same_tokens(sequence(&golden, &golden.adapter("init_adapter")), &golden.expected["greedy"]);
    let trained = every_step(Arc::new(CpuOps::<f32>::new(2)), &golden);
    same_tokens(sequence(&golden, &trained), &golden.expected["greedy_trained"]);
}

#[test]
fn before_and_after_training() {
    for case in ["tied", "untied", "sliding"] {
        before_and_after(case, on_processor);
    }
}

fn before_and_after_on<O: Ops>(ops: Arc<O>, case: &str) {
    before_and_after(case, |golden, adapter| by_operations(ops.clone(), golden, adapter));
}

#[test]
fn by_operations_with_grouped_heads_and_tied_embeddings() {
    on_device!(before_and_after_on("tied"));
}

#[test]
fn by_operations_with_an_output_layer_of_its_own() {
    on_device!(before_and_after_on("untied"));
}

#[test]
fn by_operations_with_a_sliding_window() {
    on_device!(before_and_after_on("sliding"));
}
