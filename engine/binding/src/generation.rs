//! Generation and scores.

use luthier_core::device::{Batch, GenerationEnd, GenerationRun};
use luthier_core::generate::{GeneratedToken, SamplingConfig, TokenScores};
use napi::Env;
use napi::bindgen_prelude::{Float32Array, Object, Uint32Array};
use napi_derive::napi;

use crate::promise::promise;

#[napi(object, object_to_js = false)]
pub struct NativeSampling {
    pub max_new_tokens: u32,
    pub temperature: f64,
    pub top_k: u32,
    pub top_p: f64,
    pub min_p: f64,
    pub repetition_penalty: f64,
    pub seed: u32,
    pub eos_token_ids: Vec<u32>,
}

impl From<NativeSampling> for SamplingConfig {
    fn from(found: NativeSampling) -> Self {
        Self {
            max_new_tokens: found.max_new_tokens as usize,
            temperature: found.temperature as f32,
            top_k: found.top_k as usize,
            top_p: found.top_p as f32,
            min_p: found.min_p as f32,
            repetition_penalty: found.repetition_penalty as f32,
            seed: u64::from(found.seed),
            eos_token_ids: found.eos_token_ids,
        }
    }
}

/// Tokens that have been drawn since the last batch.
#[napi(object, object_from_js = false, use_nullable = true)]
pub struct NativeGeneratedTokens {
    pub token_ids: Uint32Array,
    pub logprobs: Float32Array,
    /// On the last batch: `eos`, `length` or `cancelled`.
    pub finish_reason: Option<String>,
}

/// A generation under way.
#[napi]
pub struct NativeGenerationRun(GenerationRun);

impl NativeGenerationRun {
    pub(crate) fn new(run: GenerationRun) -> Self {
        Self(run)
    }
}

#[napi]
impl NativeGenerationRun {
    /// The next batch; ask for it again until it carries a finish reason.
    #[napi]
    pub fn next<'env>(&self, env: &'env Env) -> napi::Result<Object<'env>> {
        let (settle, promise) = promise(env)?;
        self.0.events.next(move |batch| settle.with(tokens(batch)));
        Ok(promise)
    }

    /// Stops computing within one turn. Idempotent.
    #[napi]
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

fn tokens(
    batch: Batch<(Option<GeneratedToken>, Option<GenerationEnd>)>,
) -> luthier_core::Result<NativeGeneratedTokens> {
    if let Some(Err(error)) = batch.end {
        return Err(error);
    }
    let drawn = || batch.items.iter().filter_map(|(token, _)| *token);
    let end = batch.items.iter().find_map(|(_, end)| *end);
    let name = |end: GenerationEnd| match end {
        GenerationEnd::Eos => "eos",
        GenerationEnd::Length => "length",
        GenerationEnd::Cancelled => "cancelled",
    };
    Ok(NativeGeneratedTokens {
        token_ids: drawn().map(|token| token.id).collect::<Vec<u32>>().into(),
        logprobs: drawn().map(|token| token.logprob).collect::<Vec<f32>>().into(),
        finish_reason: end.map(|end| name(end).to_owned()),
    })
}

#[napi(object, object_from_js = false)]
pub struct NativeTokenScores {
    pub logprobs: Float32Array,
    pub top_token_ids: Uint32Array,
    pub top_logits: Float32Array,
}

impl From<TokenScores> for NativeTokenScores {
    fn from(scores: TokenScores) -> Self {
        Self {
            logprobs: scores.logprobs.into(),
            top_token_ids: scores.top_token_ids.into(),
            top_logits: scores.top_logits.into(),
        }
    }
}
