//! The demo's model file: `LUTHIER_TEST_GGUF`, or where the demo keeps it. `npm test` fetches it first.

use std::path::{Path, PathBuf};

use luthier_core::WeightStorage;
use luthier_core::generate::{Progress, SamplingConfig, Scoring, Sequence, Session, TokenScores};
use luthier_core::load;
use safetensors::SafeTensors;

use crate::support::Models;

fn path() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let user = || variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    let cache = || variable("LUTHIER_CACHE").or_else(|| Some(user()?.join("luthier")));
    let path = variable("LUTHIER_TEST_GGUF")
        .or_else(|| Some(cache()?.join("SmolLM2-135M-Instruct.Q4_1.gguf")))
        .filter(|path| path.is_file());
    path.expect("the demo's model file is missing: run `npm test`, which fetches it, or set LUTHIER_TEST_GGUF to it")
}

fn score(sequence: Box<dyn Sequence>, ids: Vec<u32>, top_logits: usize) -> TokenScores {
    let mut scoring = Scoring::new(sequence, ids, top_logits).unwrap();
    loop {
        if let Some(scores) = scoring.advance().unwrap() {
            return scores;
        }
    }
}

#[test]
fn metadata_of_a_real_file() {
    let path = path();
    let metadata = load::open(&path).unwrap().metadata().unwrap();
    assert_eq!(metadata.content_hash.len(), 64);
    assert!(metadata.stored_bytes <= path.metadata().unwrap().len());
}

/// Against `test/parity/make_smollm2_logits.py`: transformers reading the same file, computing in f64.
#[test]
fn logits_of_a_real_file_equal_those_of_transformers() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../test/parity/golden/smollm2/logits.safetensors");
    let bytes = std::fs::read(golden).unwrap();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let integers = |name: &str| -> Vec<u32> {
        golden.tensor(name).unwrap().data().as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
    };
    let numbers = |name: &str| -> Vec<f64> {
        golden.tensor(name).unwrap().data().as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
    };
    let (ids, columns) = (integers("input_ids"), integers("token_ids"));
    let (expected, log_sum_exp) = (numbers("logits"), numbers("log_sum_exp"));

    for sequence in Models::new(&*load::open(&path()).unwrap(), 2).sequences(None) {
        let vocab_size = sequence.config().vocab_size;
        let scores = score(sequence, ids.clone(), vocab_size);
        let per_row = columns.len() / ids.len();
        let mut largest = 0f64;
        for (row, (columns, expected)) in columns.chunks(per_row).zip(expected.chunks(per_row)).enumerate() {
            let mut logits = vec![f64::NAN; vocab_size];
            let range = row * vocab_size..(row + 1) * vocab_size;
            for (id, logit) in scores.top_token_ids[range.clone()].iter().zip(&scores.top_logits[range]) {
                logits[*id as usize] = f64::from(*logit);
            }
            for (id, expected) in columns.iter().zip(expected) {
                largest = largest.max((logits[*id as usize] - expected).abs());
            }
            let sum = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
            largest = largest.max((sum - log_sum_exp[row]).abs());
        }
        println!("largest difference {largest:e}");
        assert!(largest <= 1e-4, "logits differ by {largest:e}; expected at most 1e-4");
    }
}

#[test]
fn generated_tokens_are_likely_under_the_exact_model() {
    let models = Models::new(&*load::open(&path()).unwrap(), 2);
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
    let mut session = Session::new(models.sequence(None), prompt.clone(), sampling).unwrap();
    let (mut ids, mut logprobs) = (prompt.clone(), Vec::new());
    loop {
        match session.advance().unwrap() {
            Progress::Token { token, .. } => {
                ids.push(token.id);
                logprobs.push(token.logprob);
            }
            Progress::Prefill { .. } => {}
            Progress::Finished => break,
        }
    }
    let scores = score(models.sequence(None), ids, 1);
    // Decoding rounds activations to 8 bits, scoring does not: on the whole they must agree.
    for (quantized, exact) in logprobs.iter().zip(&scores.logprobs[prompt.len()..]) {
        assert!((quantized - exact).abs() < 0.5, "{quantized} {exact}");
    }
}

/// Mean negative log-likelihood of a text, with the weights of linear layers held in each type.
#[test]
fn a_real_file_scores_alike_in_every_type() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../test/parity/golden/smollm2/logits.safetensors");
    let bytes = std::fs::read(golden).unwrap();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let ids = golden.tensor("input_ids").unwrap();
    let ids: Vec<u32> = ids.data().as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
    let files = load::open(&path()).unwrap();
    let loss = |storage: WeightStorage| {
        let scores = score(Models::held(&*files, 2, storage).sequence(None), ids.clone(), 1);
        -scores.logprobs[1..].iter().sum::<f32>() / (ids.len() - 1) as f32
    };
    let stored = loss(WeightStorage::Stored);
    for storage in WeightStorage::ALL {
        let found = loss(storage);
        println!("{}: {found}", storage.name());
        let bound = if matches!(storage, WeightStorage::Nf4 { .. }) { 0.25 } else { 0.05 };
        assert!((found - stored).abs() <= bound, "{}: {found}, as stored {stored}", storage.name());
    }
}
