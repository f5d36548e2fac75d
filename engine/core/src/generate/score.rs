//! Log-probabilities of given ids, computed exactly (dequantized weights, f32 products), a piece at a time.

use std::sync::Arc;

use super::logits::{largest, log_sum_exp};
use super::session::check_ids;
use crate::error::{EngineError, ErrorCode, Result};
use crate::ops::cpu::decode::CpuDecoder;
use crate::ops::cpu::decode_cache::KvCache;
use crate::ops::cpu::decode_model::{DecodeAdapter, DecodeModel};

/// Tokens of one piece of the forward pass.
const CHUNK: usize = 128;
/// Full logits of this many positions exist at once.
const LOGIT_ROWS: usize = 64;

/// Result of scoring. Field for field the `TokenScores` of `src/engine/engine.ts`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenScores {
    /// One per input id: natural-log probability given the ids before it; NaN for the first.
    pub logprobs: Vec<f32>,
    /// Row-major `[ids, top_logits]`: for each position the ids of its highest next-token logits, highest first.
    pub top_token_ids: Vec<u32>,
    /// The raw logits of `top_token_ids`.
    pub top_logits: Vec<f32>,
}

/// A scoring request under way.
pub struct Scoring {
    model: Arc<DecodeModel>,
    adapter: Option<Arc<DecodeAdapter>>,
    ids: Vec<u32>,
    top_logits: usize,
    cache: KvCache,
    /// Final hidden states of the current chunk that have no logits yet, and how many positions are scored.
    hidden: Vec<f32>,
    scored: usize,
    scores: TokenScores,
}

impl Scoring {
    /// Checks the request; computes nothing. Errors: `INVALID_ARGUMENT` (no ids, an id outside the vocabulary, more top logits than the
    /// vocabulary has), `SEQUENCE_TOO_LONG`.
    pub fn new(
        model: Arc<DecodeModel>,
        adapter: Option<Arc<DecodeAdapter>>,
        ids: Vec<u32>,
        top_logits: usize,
    ) -> Result<Self> {
        let config = model.config();
        check_ids(&ids, config.vocab_size)?;
        if ids.len() > config.max_position_embeddings {
            let (found, limit) = (ids.len(), config.max_position_embeddings);
            let message = format!("there are {found} ids to score; the model's context is {limit}; shorten the input");
            return Err(EngineError::new(ErrorCode::SequenceTooLong, message));
        }
        if top_logits > config.vocab_size {
            let message = format!("top_logits is {top_logits}; the vocabulary has {}", config.vocab_size);
            return Err(EngineError::invalid(message));
        }
        let scores = TokenScores { logprobs: vec![f32::NAN], ..TokenScores::default() };
        Ok(Self { cache: KvCache::new(config), model, adapter, ids, top_logits, hidden: Vec::new(), scored: 0, scores })
    }

    /// Does the next piece of work. Returns the scores once all positions are done; call no more after that. Dropping it cancels.
    pub fn advance(&mut self, decoder: &mut CpuDecoder) -> Result<Option<TokenScores>> {
        let width = self.model.config().hidden_size;
        if self.hidden.is_empty() {
            let start = self.cache.len();
            let end = (start + CHUNK).min(self.ids.len());
            self.hidden =
                decoder.prefill(&self.model, self.adapter.as_deref(), &mut self.cache, &self.ids[start..end])?;
            return Ok(None);
        }
        let rows = (self.hidden.len() / width).min(LOGIT_ROWS);
        let vocab_size = self.model.config().vocab_size;
        let mut logits = Vec::new();
        decoder.logits(&self.model, &self.hidden[..rows * width], &mut logits);
        self.hidden.drain(..rows * width);
        for row in logits.chunks_exact(vocab_size) {
            self.score_row(row);
        }
        let done = self.scored == self.ids.len();
        Ok(done.then(|| std::mem::take(&mut self.scores)))
    }

    fn score_row(&mut self, logits: &[f32]) {
        self.scored += 1;
        if let Some(next) = self.ids.get(self.scored) {
            let logprob = f64::from(logits[*next as usize]) - log_sum_exp(logits);
            self.scores.logprobs.push(logprob as f32);
        }
        for (id, logit) in largest(logits, self.top_logits) {
            self.scores.top_token_ids.push(id);
            self.scores.top_logits.push(logit);
        }
    }
}
