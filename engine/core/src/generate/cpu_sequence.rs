//! Sequences on the processor: decoding multiplies weights as they are stored.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::sequence::Sequence;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::ops::cpu::decode::CpuDecoder;
use crate::ops::cpu::decode_cache::KvCache;
use crate::ops::cpu::decode_model::{DecodeAdapter, DecodeModel};

/// Tokens of one prefill.
const CHUNK: usize = 128;

/// A sequence on the processor. Its cache grows as tokens come.
pub struct CpuSequence {
    decoder: Arc<Mutex<CpuDecoder>>,
    model: Arc<DecodeModel>,
    adapter: Option<Arc<DecodeAdapter>>,
    cache: KvCache,
    /// `[tokens, hidden_size]` after the final norm, of the last prefill.
    hidden: Vec<f32>,
}

impl CpuSequence {
    /// An empty sequence. The decoder is shared by all sequences of a device, which take turns.
    pub fn new(decoder: Arc<Mutex<CpuDecoder>>, model: Arc<DecodeModel>, adapter: Option<Arc<DecodeAdapter>>) -> Self {
        Self { decoder, cache: KvCache::new(model.config()), model, adapter, hidden: Vec::new() }
    }
}

fn lock(decoder: &Mutex<CpuDecoder>) -> MutexGuard<'_, CpuDecoder> {
    // Every pass sets what it reads.
    decoder.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sequence for CpuSequence {
    fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    fn chunk(&self) -> usize {
        CHUNK
    }

    fn reserve(&mut self, _: usize) {}

    fn len(&self) -> usize {
        self.cache.len()
    }

    fn prefill(&mut self, ids: &[u32]) -> Result<()> {
        self.hidden = lock(&self.decoder).prefill(&self.model, self.adapter.as_deref(), &mut self.cache, ids)?;
        Ok(())
    }

    fn logits(&mut self, rows: Range<usize>, logits: &mut Vec<f32>) -> Result<()> {
        let width = self.model.config().hidden_size;
        lock(&self.decoder).logits(&self.model, &self.hidden[rows.start * width..rows.end * width], logits);
        Ok(())
    }

    fn last_logits(&mut self, logits: &mut Vec<f32>) -> Result<()> {
        let last = self.hidden.len() - self.model.config().hidden_size;
        lock(&self.decoder).last_logits(&self.model, &self.hidden[last..], logits);
        Ok(())
    }

    fn decode(&mut self, id: u32, logits: &mut Vec<f32>) -> Result<()> {
        lock(&self.decoder).decode(&self.model, self.adapter.as_deref(), &mut self.cache, id, logits)
    }
}
