//! A real model file, named by the environment variable `LUTHIER_TEST_GGUF`; without it these tests say so and pass.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use luthier_core::generate::{Progress, SamplingConfig, Scoring, Session};
use luthier_core::load;
use luthier_core::ops::cpu::decode::CpuDecoder;
use luthier_core::ops::cpu::decode_model::DecodeModel;

fn path() -> Option<PathBuf> {
    let path = std::env::var_os("LUTHIER_TEST_GGUF").map(PathBuf::from);
    if path.is_none() {
        println!("LUTHIER_TEST_GGUF is not set: nothing to read");
    }
    path
}

#[test]
fn a_real_file_is_read_within_two_seconds() {
    let Some(path) = path() else { return };
    let begin = Instant::now();
    let files = load::open(&path).unwrap();
    let metadata = files.metadata().unwrap();
    DecodeModel::new(&*files).unwrap();
    assert!(begin.elapsed().as_secs_f64() < 2.0, "{:?}", begin.elapsed());
    assert_eq!(metadata.content_hash.len(), 64);
    assert!(metadata.stored_bytes <= path.metadata().unwrap().len());
}

#[test]
fn generated_tokens_are_likely_under_the_exact_model() {
    let Some(path) = path() else { return };
    let files = load::open(&path).unwrap();
    let model = Arc::new(DecodeModel::new(&*files).unwrap());
    let mut decoder = CpuDecoder::new(2);
    let prompt = vec![1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198];
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
    let mut session = Session::new(model.clone(), None, prompt.clone(), sampling).unwrap();
    let (mut ids, mut logprobs) = (prompt.clone(), Vec::new());
    loop {
        match session.advance(&mut decoder).unwrap() {
            Progress::Token { token, .. } => {
                ids.push(token.id);
                logprobs.push(token.logprob);
            }
            Progress::Prefill { .. } => {}
            Progress::Finished => break,
        }
    }
    let mut scoring = Scoring::new(model, None, ids, 1).unwrap();
    let scores = loop {
        if let Some(scores) = scoring.advance(&mut decoder).unwrap() {
            break scores;
        }
    };
    // Decoding rounds activations to 8 bits, scoring does not: on the whole they must agree.
    for (quantized, exact) in logprobs.iter().zip(&scores.logprobs[prompt.len()..]) {
        assert!((quantized - exact).abs() < 0.5, "{quantized} {exact}");
    }
}
