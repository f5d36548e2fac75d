//! Speed of generation from one model file: `bench_generate MODEL THREADS PROMPT_TOKENS NEW_TOKENS [REPETITIONS [STORAGE]]`.
//!
//! Prints one JSON line: the best repetition's prefill and decode rates. The prompt is made of arbitrary ids and end-of-sequence ids are ignored.
//! STORAGE is how linear weights are held, such as nf4.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use luthier_core::WeightStorage;
use luthier_core::generate::{CpuSequence, Progress, SamplingConfig, Session};
use luthier_core::load;
use luthier_core::model::BaseModel;
use luthier_core::ops::cpu::CpuOps;
use luthier_core::ops::cpu::decode::CpuDecoder;
use luthier_core::ops::cpu::decode_model::DecodeModel;

const USAGE: &str = "usage: bench_generate MODEL THREADS PROMPT_TOKENS NEW_TOKENS [REPETITIONS [STORAGE]]";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, numbers @ ..] = arguments.as_slice() else { return Err(USAGE.into()) };
    let (numbers, storage) = match numbers {
        [numbers @ .., storage] if numbers.len() == 4 => (numbers, storage.parse()?),
        numbers => (numbers, WeightStorage::Stored),
    };
    let numbers = numbers.iter().map(|number| number.parse()).collect::<Result<Vec<usize>, _>>()?;
    let (threads, prompt_tokens, new_tokens, repetitions) = match numbers[..] {
        [threads, prompt, new] => (threads, prompt, new, 3),
        [threads, prompt, new, repetitions] => (threads, prompt, new, repetitions),
        _ => return Err(USAGE.into()),
    };
    let begin = Instant::now();
    let files = load::open(Path::new(path))?;
    let base = BaseModel::load(&CpuOps::new(1), &*files, storage)?;
    let model = Arc::new(DecodeModel::new(&base));
    let load_seconds = begin.elapsed().as_secs_f64();
    let vocab_size = model.config().vocab_size as u32;
    let prompt: Vec<u32> =
        (0..prompt_tokens as u32).map(|i| i.wrapping_mul(7919).wrapping_add(13) % vocab_size).collect();
    let sampling = SamplingConfig {
        max_new_tokens: new_tokens,
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        seed: 0,
        eos_token_ids: Vec::new(),
    };
    let decoder = Arc::new(Mutex::new(CpuDecoder::new(threads)));
    let (mut prefill, mut decode) = (0f64, 0f64);
    for _ in 0..repetitions.max(1) {
        let sequence = CpuSequence::new(decoder.clone(), model.clone(), None);
        let mut session = Session::new(Box::new(sequence), prompt.clone(), sampling.clone())?;
        let begin = Instant::now();
        while !matches!(session.advance()?, Progress::Token { .. }) {}
        prefill = prefill.max(prompt_tokens as f64 / begin.elapsed().as_secs_f64());
        let begin = Instant::now();
        while session.advance()? != Progress::Finished {}
        decode = decode.max((session.generated() - 1) as f64 / begin.elapsed().as_secs_f64());
    }
    println!(
        "{{\"load_seconds\":{load_seconds:.3},\"prefill_tokens_per_second\":{prefill:.1},\"decode_tokens_per_second\":{decode:.1}}}"
    );
    Ok(())
}
