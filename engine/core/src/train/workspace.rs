//! Device memory of a run and what is computed in it. Made once, for the largest micro-batch; knows nothing of steps, epochs or events.

use std::sync::Arc;

use super::checkpoint::HostTensors;
use super::config::TrainConfig;
use super::optimizer::{Optimizer, OptimizerPlan};
use super::share::Share;
use super::sizes::Sizes;
use crate::error::{EngineError, ErrorCode, Result};
use crate::lora::LoraAdapter;
use crate::model::{
    Activations, BaseModel, Decoder, Dropout, EmbeddingNoise, Examples, HeadScratch, Keep, PackedBatch, Scratch,
    rope_angles,
};
use crate::ops::{AdamW, Element, Ops, View, ViewMut};

/// Names of tensors in a checkpoint.
const ADAPTER: &str = "adapter";
const GRADIENTS: &str = "gradients";

/// An adapter in training: its matrices, their gradients, the optimizer, and the memory of a micro-batch.
pub(super) struct Workspace<O: Ops> {
    ops: Arc<O>,
    base: Arc<BaseModel<O>>,
    pub adapter: LoraAdapter<O>,
    gradients: O::Buffer,
    optimizer: Optimizer<O>,
    angles: O::Buffer,
    batch: PackedBatch<O>,
    activations: Activations<O>,
    /// Present where an evaluation batch is larger than every training micro-batch. One block's activations at a time.
    evaluation_activations: Option<Activations<O>>,
    scratch: Scratch<O>,
    head: HeadScratch<O>,
}

impl<O: Ops> Workspace<O> {
    /// Allocates everything; `RunShape::plan` prices it. `OUT_OF_MEMORY` where the device refuses.
    pub fn new(
        ops: Arc<O>,
        base: Arc<BaseModel<O>>,
        adapter: LoraAdapter<O>,
        sizes: Sizes,
        keep: Keep,
        settings: &TrainConfig,
    ) -> Result<Self> {
        let (config, layout) = (&base.config, &*adapter.layout);
        let rows = sizes.rows();
        let evaluation_activations = (sizes.evaluation.rows > sizes.train.rows)
            .then(|| Activations::new(&*ops, config, layout, sizes.evaluation.rows, Keep::Nothing));
        let mut scratch = Scratch::new(&*ops, config, layout, rows, true)?;
        if adapter.lora_dropout > 0.0 {
            scratch = scratch.with_dropout(&*ops, layout, sizes.train.rows)?;
        }
        Ok(Self {
            gradients: ops.allocate(layout.len())?,
            optimizer: Optimizer::new(&*ops, OptimizerPlan::new(settings, layout))?,
            angles: rope_angles(&*ops, config, sizes.longest())?,
            batch: PackedBatch::new(&*ops, rows)?,
            activations: Activations::new(&*ops, config, layout, sizes.train.rows, keep)?,
            evaluation_activations: evaluation_activations.transpose()?,
            scratch,
            head: HeadScratch::new(&*ops, config, sizes.labelled_rows)?
                .with_label_smoothing(settings.label_smoothing_factor),
            adapter,
            ops,
            base,
        })
    }

    /// Forgets the gradients gathered so far.
    pub fn clear_gradients(&mut self) -> Result<()> {
        self.ops.zero(ViewMut::from(&mut self.gradients), self.adapter.layout.len())
    }

    /// Adds the gradients of `cross-entropy sum · grad_scale` over the given examples; returns that sum, unscaled. Of a step's last micro-batch,
    /// with its `share`, begins to reduce them.
    ///
    /// Errors: `NON_FINITE_LOSS`, with the place where the forward pass broke; the gradients are then unchanged.
    pub fn accumulate(
        &mut self,
        examples: &dyn Examples,
        indices: &[u32],
        grad_scale: f64,
        (dropout, noise): (Option<Dropout>, Option<EmbeddingNoise>),
        share: Option<&mut Share<O>>,
    ) -> Result<f64> {
        let Self { ops, base, adapter, angles, batch, activations, scratch, head, gradients, .. } = self;
        let decoder = Decoder { ops: &**ops, base, adapter, angles, dropout, noise };
        batch.fill(&**ops, examples, indices)?;
        decoder.forward(batch, activations, scratch)?;
        let loss = decoder.loss(batch, activations, scratch, head, Some(grad_scale))?;
        if !loss.is_finite() {
            return Err(non_finite(loss, &decoder.first_non_finite(batch, activations)?));
        }
        match share {
            Some(share) => decoder.backward_by_block(batch, activations, scratch, gradients, |layer, gradients| {
                share.block_done(ops, layer, gradients)
            })?,
            None => decoder.backward(batch, activations, scratch, gradients)?,
        }
        Ok(loss)
    }

    /// Makes the gathered gradients those of all ranks.
    pub fn reduce(&mut self, share: &mut Share<O>) -> Result<()> {
        share.reduce(&self.ops, &mut self.gradients)
    }

    /// Divides the gathered gradients by the scale of the loss they are of and clips them to a 2-norm of `max_grad_norm` (0: not at all);
    /// returns the norm between.
    pub fn clip(&mut self, loss_scale: f64, max_grad_norm: f64) -> Result<f64> {
        self.ops.clip_norm(&mut self.gradients, 1.0 / loss_scale, max_grad_norm)
    }

    /// One AdamW update with the gathered gradients.
    pub fn update(&mut self, settings: AdamW) -> Result<()> {
        self.optimizer.update(&*self.ops, settings, &mut self.adapter.parameters, &self.gradients)
    }

    /// The adapter's numbers. Waits for the device.
    pub fn parameters(&self) -> Result<Vec<O::Elem>> {
        let mut values = vec![O::Elem::from_f64(0.0); self.adapter.layout.len()];
        self.ops.read(View::from(&self.adapter.parameters), &mut values)?;
        Ok(values)
    }

    /// Goes back to numbers that [`Self::parameters`] gave.
    pub fn restore(&mut self, parameters: &[O::Elem]) -> Result<()> {
        self.ops.write(parameters, ViewMut::from(&mut self.adapter.parameters))
    }

    /// Copies the adapter, the optimizer's moments and, where a step is under way, the gradients so far to the host. Waits for the device.
    pub fn capture(&self, in_step: bool, host: &mut HostTensors) -> Result<()> {
        let len = self.adapter.layout.len();
        host.read(ADAPTER, len, |values| self.ops.read(View::from(&self.adapter.parameters), values))?;
        if in_step {
            host.read(GRADIENTS, len, |values| self.ops.read(View::from(&self.gradients), values))?;
        }
        self.optimizer.capture(&*self.ops, host)
    }

    /// Goes back to what [`Self::capture`] copied.
    ///
    /// Errors: `CHECKPOINT_MISMATCH` where that is of another adapter or optimizer.
    pub fn restore_all(&mut self, in_step: bool, host: &HostTensors) -> Result<()> {
        let len = self.adapter.layout.len();
        self.restore(host.numbers(ADAPTER, len)?)?;
        if in_step {
            self.ops.write(host.numbers(GRADIENTS, len)?, ViewMut::from(&mut self.gradients))?;
        }
        self.optimizer.restore(&*self.ops, host)
    }

    /// Σ cross-entropy over the labels of the given examples, and their number. No gradients.
    ///
    /// Errors: `NON_FINITE_LOSS`.
    pub fn evaluate(&mut self, examples: &dyn Examples, indices: &[u32]) -> Result<(f64, usize)> {
        let Self { ops, base, adapter, angles, batch, scratch, head, .. } = self;
        let activations = self.evaluation_activations.as_mut().unwrap_or(&mut self.activations);
        let decoder = Decoder { ops: &**ops, base, adapter, angles, dropout: None, noise: None };
        batch.fill(&**ops, examples, indices)?;
        decoder.forward(batch, activations, scratch)?;
        let loss = decoder.loss(batch, activations, scratch, head, None)?;
        if !loss.is_finite() {
            // Where only two streams are kept, only the last place can be told.
            let place = match self.evaluation_activations {
                Some(_) => "the forward pass".to_owned(),
                None => decoder.first_non_finite(batch, &mut self.activations)?,
            };
            return Err(non_finite(loss, &place));
        }
        Ok((loss, batch.label_count()))
    }
}

fn non_finite(loss: f64, place: &str) -> EngineError {
    let message = format!("the loss is {loss}; the first such number is in {place}");
    EngineError::new(ErrorCode::NonFiniteLoss, message)
}
