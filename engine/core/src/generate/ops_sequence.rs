//! Sequences on any device of [`Ops`], from the very weights and adapters that it trains with.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::sequence::{LOGIT_ROWS, Sequence};
use crate::config::ModelConfig;
use crate::error::{EngineError, ErrorCode, Result};
use crate::lora::LoraAdapter;
use crate::model::{BaseModel, Decoder, KeyValueCache, LogitsMemory, StepMemory, rope_angles};
use crate::ops::{Element, Ops, View};

/// Tokens of one prefill: a pass dequantizes every weight once, so that few tokens cost as much as these.
const CHUNK: usize = 256;

/// A base model on a device, ready for sequences; shared by them.
pub struct OpsModel<O: Ops> {
    ops: Arc<O>,
    base: Arc<BaseModel<O>>,
    /// Of sequences without an adapter.
    no_adapter: Arc<LoraAdapter<O>>,
    /// Taken with the first token, and kept: sequences take turns with it.
    workspace: Mutex<Option<Workspace<O>>>,
}

/// What passes use in between.
struct Workspace<O: Ops> {
    step: StepMemory<O>,
    logits: LogitsMemory<O>,
    /// Rope's angles, and for how many positions: enough for the longest sequence so far.
    angles: O::Buffer,
    positions: usize,
}

impl<O: Ops> OpsModel<O> {
    /// Shares a base model with training. `OUT_OF_MEMORY` where the device refuses.
    pub fn new(ops: Arc<O>, base: Arc<BaseModel<O>>) -> Result<Self> {
        let no_adapter = Arc::new(LoraAdapter::empty(&*ops, &base.config)?);
        Ok(Self { ops, base, no_adapter, workspace: Mutex::new(None) })
    }

    /// The weights.
    pub fn base(&self) -> &Arc<BaseModel<O>> {
        &self.base
    }

    /// The device.
    pub fn ops(&self) -> &Arc<O> {
        &self.ops
    }

    fn make_workspace(&self, positions: usize) -> Result<Workspace<O>> {
        let (ops, config) = (&*self.ops, &self.base.config);
        Ok(Workspace {
            step: StepMemory::new(ops, config, CHUNK)?,
            logits: LogitsMemory::new(ops, config, LOGIT_ROWS)?,
            angles: rope_angles(ops, config, positions)?,
            positions,
        })
    }

    /// Calls `work` with the workspace, made or grown for sequences of `positions`.
    fn with_workspace<R>(
        &self,
        positions: usize,
        work: impl FnOnce(&mut StepMemory<O>, &mut LogitsMemory<O>, &O::Buffer) -> Result<R>,
    ) -> Result<R> {
        // Every pass sets what it reads.
        let mut workspace = self.workspace.lock().unwrap_or_else(PoisonError::into_inner);
        let grown = positions.next_power_of_two().min(self.base.config.max_position_embeddings).max(positions);
        let found = match &mut *workspace {
            Some(found) => found,
            none => none.insert(self.make_workspace(grown)?),
        };
        if found.positions < positions {
            found.angles = rope_angles(&*self.ops, &self.base.config, grown)?;
            found.positions = grown;
        }
        let Workspace { step, logits, angles, .. } = found;
        work(step, logits, angles)
    }
}

/// A sequence on a device. Its cache is made with the first token, for all the positions that were reserved.
pub struct OpsSequence<O: Ops> {
    model: Arc<OpsModel<O>>,
    adapter: Arc<LoraAdapter<O>>,
    reserved: usize,
    memory: Option<SequenceMemory<O>>,
}

/// What a sequence keeps from one pass to the next.
struct SequenceMemory<O: Ops> {
    cache: KeyValueCache<O>,
    /// `[tokens, hidden_size]`: the residual stream after the last block, of the last pass.
    stream: O::Buffer,
    /// Tokens of the last pass.
    rows: usize,
}

impl<O: Ops> OpsSequence<O> {
    /// An empty sequence.
    pub fn new(model: Arc<OpsModel<O>>, adapter: Option<Arc<LoraAdapter<O>>>) -> Self {
        let adapter = adapter.unwrap_or_else(|| model.no_adapter.clone());
        Self { model, adapter, reserved: 0, memory: None }
    }

    fn extend(&mut self, ids: &[u32]) -> Result<()> {
        let Self { model, adapter, reserved, memory } = self;
        let (ops, base, reserved) = (&*model.ops, &*model.base, *reserved);
        let memory = match memory {
            Some(memory) => memory,
            none => none.insert(SequenceMemory::new(ops, &base.config, reserved)?),
        };
        model.with_workspace(reserved, |step, _, angles| {
            let decoder = Decoder { ops, base, adapter, angles, dropout: None, noise: None };
            decoder.extend(ids, &mut memory.cache, step, &mut memory.stream)
        })?;
        memory.rows = ids.len();
        Ok(())
    }
}

impl<O: Ops> SequenceMemory<O> {
    fn new(ops: &O, config: &ModelConfig, positions: usize) -> Result<Self> {
        let make = || -> Result<Self> {
            let cache = KeyValueCache::new(ops, config, positions)?;
            let stream = ops.allocate_activations(positions.min(CHUNK) * config.hidden_size)?;
            Ok(Self { cache, stream, rows: 0 })
        };
        make().map_err(|error| match error.code {
            ErrorCode::OutOfMemory => {
                let message = format!(
                    "no room for the keys and values of {positions} tokens, prompt and answer together; ask for fewer, or try again when others are done: {}",
                    error.message
                );
                EngineError::new(ErrorCode::OutOfMemory, message)
            }
            _ => error,
        })
    }
}

impl<O: Ops> Sequence for OpsSequence<O> {
    fn config(&self) -> &ModelConfig {
        &self.model.base.config
    }

    fn chunk(&self) -> usize {
        CHUNK
    }

    fn reserve(&mut self, positions: usize) {
        self.reserved = positions;
    }

    fn len(&self) -> usize {
        self.memory.as_ref().map_or(0, |memory| memory.cache.len())
    }

    fn prefill(&mut self, ids: &[u32]) -> Result<()> {
        self.extend(ids)?;
        // A number is read so as to wait: a turn must take as long as its work does.
        let mut number = [O::Elem::from_f64(0.0)];
        match &self.memory {
            Some(memory) => self.model.ops.read(View::from(&memory.stream), &mut number),
            None => Ok(()),
        }
    }

    fn logits(&mut self, rows: Range<usize>, logits: &mut Vec<f32>) -> Result<()> {
        let Self { model, adapter, reserved, memory } = self;
        let memory = memory.as_ref().filter(|memory| rows.end <= memory.rows);
        let memory =
            memory.ok_or_else(|| EngineError::internal(format!("logits of rows {rows:?}, which no pass left")))?;
        let (ops, base) = (&*model.ops, &*model.base);
        let stream = View::at(&memory.stream, rows.start * base.config.hidden_size);
        model.with_workspace(*reserved, |_, scratch, angles| {
            Decoder { ops, base, adapter, angles, dropout: None, noise: None }.logits(
                rows.len(),
                stream,
                scratch,
                logits,
            )
        })
    }

    fn last_logits(&mut self, logits: &mut Vec<f32>) -> Result<()> {
        let rows = self.memory.as_ref().map_or(0, |memory| memory.rows);
        self.logits(rows.saturating_sub(1)..rows, logits)
    }

    fn decode(&mut self, id: u32, logits: &mut Vec<f32>) -> Result<()> {
        self.extend(&[id])?;
        self.last_logits(logits)
    }
}
