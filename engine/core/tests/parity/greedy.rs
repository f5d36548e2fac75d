//! Greedy tokens beside transformers, from the adapter that training starts from and from the one trained here.

use std::sync::Arc;

use luthier_core::generate::{Progress, SamplingConfig, Session};
use luthier_core::lora::peft::PeftAdapter;
use luthier_core::ops::cpu::CpuOps;
use luthier_core::ops::cpu::decode::CpuDecoder;
use luthier_core::ops::cpu::decode_model::{DecodeAdapter, DecodeModel};
use serde_json::Value;

use crate::curve::fifty_steps;
use crate::golden::Golden;

fn same_tokens(golden: &Golden, adapter: &PeftAdapter, expected: &Value) {
    let list = |name: &str| -> Vec<u32> {
        expected[name].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    let model = Arc::new(DecodeModel::new(&golden.model(&CpuOps::new(1))));
    let adapter = Arc::new(DecodeAdapter::new(model.config(), adapter));
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
    let mut session = Session::new(model, Some(adapter), list("prompt"), sampling).unwrap();
    let mut decoder = CpuDecoder::new(2);
    let mut found = Vec::new();
    loop {
        match session.advance(&mut decoder).unwrap() {
            Progress::Token { token, .. } => found.push(token.id),
            Progress::Prefill { .. } => {}
            Progress::Finished => break,
        }
    }
    assert_eq!(found, tokens);
}

#[test]
fn before_and_after_training() {
    for case in ["tied", "untied"] {
        let golden = Golden::open(case);
        same_tokens(&golden, &golden.adapter("init_adapter"), &golden.expected["greedy"]);
        same_tokens(
            &golden,
            &fifty_steps(Arc::new(CpuOps::<f32>::new(2)), &golden),
            &golden.expected["greedy_trained"],
        );
    }
}
