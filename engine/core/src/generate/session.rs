//! One sequence being generated.

use super::logits::log_sum_exp;
use super::sampling::{Sampler, SamplingConfig};
use super::sequence::Sequence;
use crate::error::{EngineError, ErrorCode, Result};

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

/// A sequence with its sampler.
///
/// Each call of [`Session::advance`] is one short piece of work (a prefill chunk or one token), so that a device thread can interleave
/// sessions with each other and with training, and stop one between two tokens by dropping it.
pub struct Session {
    sequence: Box<dyn Sequence>,
    prompt: Vec<u32>,
    sampler: Sampler,
    /// Tokens to draw at most: as many as were asked for and the model's context has room for.
    most: usize,
    eos_token_ids: Vec<u32>,
    generated: usize,
    /// The token drawn last, not yet in the cache.
    pending: Option<u32>,
    logits: Vec<f32>,
    finished: bool,
}

impl Session {
    /// Checks a request for an empty sequence; computes nothing.
    ///
    /// Errors: `INVALID_ARGUMENT` for an empty prompt, an id outside the vocabulary or a sampling value out of range; `SEQUENCE_TOO_LONG`
    /// where the prompt does not leave room for one token in the model's context.
    pub fn new(mut sequence: Box<dyn Sequence>, prompt: Vec<u32>, sampling: SamplingConfig) -> Result<Self> {
        let config = sequence.config();
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
        let most = sampling.max_new_tokens.min(config.max_position_embeddings - prompt.len());
        // The last token is drawn and not read again.
        sequence.reserve(prompt.len() + most - 1);
        Ok(Self {
            sequence,
            most,
            eos_token_ids: sampling.eos_token_ids.clone(),
            sampler: Sampler::new(sampling, &prompt),
            prompt,
            generated: 0,
            pending: None,
            logits: Vec::new(),
            finished: false,
        })
    }

    /// Does the next piece of work. After an error the session is finished.
    pub fn advance(&mut self) -> Result<Progress> {
        if self.finished {
            return Ok(Progress::Finished);
        }
        let progress = self.step();
        self.finished = match &progress {
            Ok(Progress::Token { finish, .. }) => finish.is_some(),
            Ok(_) => false,
            Err(_) => true,
        };
        progress
    }

    /// Tokens drawn so far.
    pub fn generated(&self) -> usize {
        self.generated
    }

    fn step(&mut self) -> Result<Progress> {
        match self.pending.take() {
            Some(id) => self.sequence.decode(id, &mut self.logits)?,
            None => {
                let done = self.sequence.len();
                let end = (done + self.sequence.chunk()).min(self.prompt.len());
                self.sequence.prefill(&self.prompt[done..end])?;
                if end < self.prompt.len() {
                    return Ok(Progress::Prefill { done: end, total: self.prompt.len() });
                }
                self.sequence.last_logits(&mut self.logits)?;
            }
        }
        let id = self.sampler.next(&self.logits)?;
        let logprob = (f64::from(self.logits[id as usize]) - log_sum_exp(&self.logits)) as f32;
        self.generated += 1;
        let finish = if self.eos_token_ids.contains(&id) {
            Some(FinishReason::Eos)
        } else {
            (self.generated >= self.most).then_some(FinishReason::Length)
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
