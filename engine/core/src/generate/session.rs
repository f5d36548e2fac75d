//! One sequence being generated.

use std::sync::Arc;

use super::logits::log_sum_exp;
use super::sampling::{Sampler, SamplingConfig};
use crate::error::{EngineError, ErrorCode, Result};
use crate::ops::cpu::decode::CpuDecoder;
use crate::ops::cpu::decode_cache::KvCache;
use crate::ops::cpu::decode_model::{DecodeAdapter, DecodeModel};

/// Prompt tokens of one prefill step: large enough for the matrix products, small enough to stay interruptible.
const PREFILL_CHUNK: usize = 128;

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// One of the end-of-sequence ids was drawn.
    Eos,
    /// `max_new_tokens` or the end of the model's context was reached.
    Length,
}

/// One drawn token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GeneratedToken {
    pub id: u32,
    /// Natural-log probability under the raw logits (before penalties and temperature).
    pub logprob: f32,
}

/// What one call of [`Session::advance`] did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Progress {
    /// A part of the prompt went in: tokens done so far.
    Prefill { done: usize, total: usize },
    /// A token was drawn. With a finish reason it is the last one; an end-of-sequence id is drawn, reported, and no part of the text.
    Token { token: GeneratedToken, finish: Option<FinishReason> },
    /// The session had ended before; nothing was computed.
    Finished,
}

/// A sequence with its cache and sampler. The base model and the adapter are shared and never changed.
///
/// Each call of [`Session::advance`] is one short piece of work (a prefill chunk or one token), so that a device thread can interleave
/// sessions with each other and with training, and stop one between two tokens by dropping it.
pub struct Session {
    model: Arc<DecodeModel>,
    adapter: Option<Arc<DecodeAdapter>>,
    prompt: Vec<u32>,
    cache: KvCache,
    sampler: Sampler,
    max_new_tokens: usize,
    eos_token_ids: Vec<u32>,
    generated: usize,
    /// The token drawn last, not yet in the cache.
    pending: Option<u32>,
    logits: Vec<f32>,
    finished: bool,
}

impl Session {
    /// Checks the request; computes nothing.
    ///
    /// Errors: `INVALID_ARGUMENT` for an empty prompt, an id outside the vocabulary or a sampling value out of range; `SEQUENCE_TOO_LONG`
    /// where the prompt does not leave room for one token in the model's context.
    pub fn new(
        model: Arc<DecodeModel>,
        adapter: Option<Arc<DecodeAdapter>>,
        prompt: Vec<u32>,
        sampling: SamplingConfig,
    ) -> Result<Self> {
        let config = model.config();
        sampling.validate(config.vocab_size)?;
        check_ids(&prompt, config.vocab_size)?;
        if prompt.len() >= config.max_position_embeddings {
            let message = format!(
                "the prompt has {} tokens; the model's context is {} and one must be left for the answer; shorten the prompt",
                prompt.len(),
                config.max_position_embeddings
            );
            return Err(EngineError::new(ErrorCode::SequenceTooLong, message));
        }
        Ok(Self {
            cache: KvCache::new(config),
            max_new_tokens: sampling.max_new_tokens,
            eos_token_ids: sampling.eos_token_ids.clone(),
            sampler: Sampler::new(sampling, &prompt),
            model,
            adapter,
            prompt,
            generated: 0,
            pending: None,
            logits: Vec::new(),
            finished: false,
        })
    }

    /// Does the next piece of work on the device's threads. After an error the session is finished.
    pub fn advance(&mut self, decoder: &mut CpuDecoder) -> Result<Progress> {
        if self.finished {
            return Ok(Progress::Finished);
        }
        let progress = self.step(decoder);
        self.finished = match &progress {
            Ok(Progress::Token { finish, .. }) => finish.is_some(),
            Ok(_) => false,
            Err(_) => true,
        };
        progress
    }

    /// Bytes of the cache.
    pub fn cache_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Tokens drawn so far.
    pub fn generated(&self) -> usize {
        self.generated
    }

    fn step(&mut self, decoder: &mut CpuDecoder) -> Result<Progress> {
        let adapter = self.adapter.as_deref();
        match self.pending.take() {
            Some(id) => decoder.decode(&self.model, adapter, &mut self.cache, id, &mut self.logits)?,
            None => {
                let done = self.cache.len();
                let end = (done + PREFILL_CHUNK).min(self.prompt.len());
                let hidden = decoder.prefill(&self.model, adapter, &mut self.cache, &self.prompt[done..end])?;
                if end < self.prompt.len() {
                    return Ok(Progress::Prefill { done: end, total: self.prompt.len() });
                }
                let last = hidden.len() - self.model.config().hidden_size;
                decoder.last_logits(&self.model, &hidden[last..], &mut self.logits);
            }
        }
        let id = self.sampler.next(&self.logits)?;
        let logprob = (f64::from(self.logits[id as usize]) - log_sum_exp(&self.logits)) as f32;
        self.generated += 1;
        let finish = if self.eos_token_ids.contains(&id) {
            Some(FinishReason::Eos)
        } else {
            let room = self.model.config().max_position_embeddings - self.prompt.len();
            (self.generated >= self.max_new_tokens.min(room)).then_some(FinishReason::Length)
        };
        self.pending = Some(id);
        Ok(Progress::Token { token: GeneratedToken { id, logprob }, finish })
    }
}

/// `INVALID_ARGUMENT` for no ids or one outside the vocabulary.
pub(super) fn check_ids(ids: &[u32], vocab_size: usize) -> Result<()> {
    if ids.is_empty() {
        return Err(EngineError::invalid("there are no input ids; expected at least one"));
    }
    match ids.iter().position(|id| *id as usize >= vocab_size) {
        Some(index) => {
            let id = ids[index];
            Err(EngineError::invalid(format!(
                "input id {id} at index {index} is outside the vocabulary of {vocab_size}"
            )))
        }
        None => Ok(()),
    }
}
