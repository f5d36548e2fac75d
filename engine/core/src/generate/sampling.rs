//! Choosing the next token, with the semantics and the order of Hugging Face's `generate`:
//! repetition penalty → temperature → top-k → top-p → min-p → one multinomial draw.

use std::collections::HashSet;

use super::logits::argmax;
use super::random::Pcg32;
use crate::error::{EngineError, Result};

/// How to sample. Field for field the `SamplingConfig` of `src/engine/engine.ts`.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingConfig {
    pub max_new_tokens: usize,
    /// 0: greedy.
    pub temperature: f32,
    /// Keep the k largest scores, ties with the k-th included. 0: off.
    pub top_k: usize,
    /// Keep the smallest set of most probable tokens with at least this mass. 1: off.
    pub top_p: f32,
    /// Keep tokens of at least this share of the largest probability. 0: off.
    pub min_p: f32,
    /// Divides positive and multiplies negative scores of every id seen so far, the prompt's included. 1: off.
    pub repetition_penalty: f32,
    pub seed: u64,
    /// Generation ends when one of these is drawn.
    pub eos_token_ids: Vec<u32>,
}

impl SamplingConfig {
    /// `INVALID_ARGUMENT` for a value outside its range, naming field and range.
    pub fn validate(&self, vocab_size: usize) -> Result<()> {
        let refuse = |name: &str, value: f32, range: &str| {
            Err(EngineError::invalid(format!("{name} is {value}; expected {range}")))
        };
        if self.max_new_tokens == 0 {
            return Err(EngineError::invalid("max_new_tokens is 0; expected at least 1"));
        }
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return refuse("temperature", self.temperature, "a finite number of at least 0 (0: greedy)");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse("top_p", self.top_p, "above 0, up to 1 (1: off)");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return refuse("min_p", self.min_p, "0 to 1 (0: off)");
        }
        if !(self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0) {
            return refuse("repetition_penalty", self.repetition_penalty, "a finite number above 0 (1: off)");
        }
        match self.eos_token_ids.iter().find(|id| **id as usize >= vocab_size) {
            Some(id) => {
                Err(EngineError::invalid(format!("eos_token_ids holds {id}, outside the vocabulary of {vocab_size}")))
            }
            None => Ok(()),
        }
    }
}

/// Draws tokens for one sequence. It remembers which ids have been seen, and its generator's state.
pub struct Sampler {
    config: SamplingConfig,
    random: Pcg32,
    seen: HashSet<u32>,
    scores: Vec<f32>,
    /// Ids that filters have kept so far with their scores, reused.
    kept: Vec<(u32, f32)>,
}

impl Sampler {
    /// A sampler for a sequence that begins with `prompt`.
    pub fn new(config: SamplingConfig, prompt: &[u32]) -> Self {
        let random = Pcg32::new(config.seed);
        Self { seen: prompt.iter().copied().collect(), config, random, scores: Vec::new(), kept: Vec::new() }
    }

    /// The next token for a row of raw logits; it counts as seen from now on. `INTERNAL` where a logit is NaN or none is above minus infinity.
    pub fn next(&mut self, logits: &[f32]) -> Result<u32> {
        let unusable = || {
            EngineError::internal(
                "the model's logits are not finite; the weights or the adapter hold infinities or NaN",
            )
        };
        self.scores.clear();
        self.scores.extend_from_slice(logits);
        self.penalize();
        let id = if self.config.temperature == 0.0 {
            let best = argmax(&self.scores).filter(|best| self.scores[*best].is_finite()).ok_or_else(unusable)?;
            best as u32
        } else {
            self.filter();
            draw(&self.kept, self.random.next_f64()).ok_or_else(unusable)?
        };
        self.seen.insert(id);
        Ok(id)
    }

    fn penalize(&mut self) {
        let penalty = self.config.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        for id in &self.seen {
            if let Some(score) = self.scores.get_mut(*id as usize) {
                *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
            }
        }
    }

    /// Fills `kept` with the ids that survive, by descending score where top-p made an order.
    fn filter(&mut self) {
        let SamplingConfig { temperature, top_k, top_p, min_p, .. } = self.config;
        if temperature != 1.0 {
            self.scores.iter_mut().for_each(|score| *score /= temperature);
        }
        let threshold = if top_k > 0 && top_k < self.scores.len() {
            kth_largest(&mut self.scores.clone(), top_k)
        } else {
            f32::NEG_INFINITY
        };
        self.kept.clear();
        // A NaN must not vanish in a comparison: it stays, and the draw refuses it.
        let survives = |score: &f32| score.is_nan() || *score >= threshold;
        self.kept.extend((0u32..).zip(self.scores.iter().copied()).filter(|(_, score)| survives(score)));
        if top_p < 1.0 {
            keep_nucleus(&mut self.kept, f64::from(top_p));
        }
        if min_p > 0.0 {
            let largest = self.kept.iter().map(|(_, score)| *score).fold(f32::NEG_INFINITY, f32::max);
            self.kept.retain(|(_, score)| score.is_nan() || (score - largest).exp() >= min_p);
        }
    }
}

fn kth_largest(scores: &mut [f32], k: usize) -> f32 {
    *scores.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
}

/// Top-p as Hugging Face: by ascending score, drop while the running mass is at most `1 - top_p`; the most probable one always stays.
/// The mass is that of the survivors, renormalised. Equal scores: of the ids that a stable ascending sort puts first, the first go first.
fn keep_nucleus(kept: &mut Vec<(u32, f32)>, top_p: f64) {
    let largest = kept.iter().map(|(_, score)| *score).fold(f32::NEG_INFINITY, f32::max);
    let mass = |score: f32| f64::from((score - largest).exp());
    let total: f64 = kept.iter().map(|(_, score)| mass(*score)).sum();
    if !total.is_finite() {
        return;
    }
    // Scores so low that all of them together cannot reach the bound need no sorting: most of a vocabulary goes this way.
    let bound = (1.0 - top_p) * total;
    let negligible = bound / (2.0 * kept.len() as f64);
    let mut dropped = 0.0;
    kept.retain(|(_, score)| {
        let mass = mass(*score);
        let keep = mass > negligible;
        dropped += if keep { 0.0 } else { mass };
        keep
    });
    kept.sort_by(|a, b| a.1.total_cmp(&b.1));
    let last = kept.len().saturating_sub(1);
    let mut running = dropped;
    let cut = kept[..last].iter().take_while(|(_, score)| {
        running += mass(*score);
        running <= bound
    });
    let cut = cut.count();
    kept.drain(..cut);
    kept.reverse();
}

/// The id at `uniform` of the softmax over `kept`; `None` where the mass is no positive finite number.
fn draw(kept: &[(u32, f32)], uniform: f64) -> Option<u32> {
    let largest = kept.iter().map(|(_, score)| *score).fold(f32::NEG_INFINITY, f32::max);
    let mass = |score: f32| f64::from((score - largest).exp());
    let total: f64 = kept.iter().map(|(_, score)| mass(*score)).sum();
    if !(total.is_finite() && total > 0.0) {
        return None;
    }
    let mut left = uniform * total;
    for (id, score) in kept {
        let mass = mass(*score);
        if left < mass {
            return Some(*id);
        }
        left -= mass;
    }
    // Rounding can leave a trace beyond the last id with any mass.
    kept.iter().rev().find(|(_, score)| mass(*score) > 0.0).map(|(id, _)| *id)
}

#[cfg(test)]
mod tests;
