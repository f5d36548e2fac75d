//! Log-probabilities of given ids, computed exactly (dequantized weights, f32 products), a piece at a time.

use super::logits::{largest, log_sum_exp};
use super::sequence::{LOGIT_ROWS, Sequence};
use super::session::check_ids;
use crate::error::{EngineError, ErrorCode, Result};

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
    sequence: Box<dyn Sequence>,
    ids: Vec<u32>,
    top_logits: usize,
    /// Position at which the last piece of the forward pass began.
    chunk_start: usize,
    /// Positions that have been scored.
    scored: usize,
    logits: Vec<f32>,
    scores: TokenScores,
}

impl Scoring {
    /// Checks a request for an empty sequence; computes nothing. Errors: `INVALID_ARGUMENT` (no ids, an id outside the vocabulary, more top logits than the
    /// vocabulary has), `SEQUENCE_TOO_LONG`.
    pub fn new(mut sequence: Box<dyn Sequence>, ids: Vec<u32>, top_logits: usize) -> Result<Self> {
        let config = sequence.config();
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
        sequence.reserve(ids.len());
        Ok(Self { sequence, ids, top_logits, chunk_start: 0, scored: 0, logits: Vec::new(), scores })
    }

    /// Does the next piece of work. Returns the scores once all positions are done; call no more after that. Dropping it cancels.
    pub fn advance(&mut self) -> Result<Option<TokenScores>> {
        let passed = self.sequence.len();
        if self.scored == passed {
            let end = (passed + self.sequence.chunk()).min(self.ids.len());
            self.sequence.prefill(&self.ids[passed..end])?;
            self.chunk_start = passed;
            return Ok(None);
        }
        let rows = self.scored..(self.scored + LOGIT_ROWS).min(passed);
        let mut logits = std::mem::take(&mut self.logits);
        self.sequence.logits(rows.start - self.chunk_start..rows.end - self.chunk_start, &mut logits)?;
        for row in logits.chunks_exact(self.sequence.config().vocab_size) {
            self.score_row(row);
        }
        self.logits = logits;
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
