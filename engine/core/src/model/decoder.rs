//! The whole decoder over a packed micro-batch: loss, and gradients of an adapter.

use super::activations::{Activations, KeptBlockMemory, Scratch};
use super::batch::PackedBatch;
use super::block::{Block, Kept};
use super::dropout::Dropout;
use super::head::HeadScratch;
use super::low_rank::BlockAdapter;
use super::noise::EmbeddingNoise;
use super::weights::BaseModel;
use crate::error::Result;
use crate::lora::LoraAdapter;
use crate::ops::{Element, Ops, View};

/// A base model with an adapter, ready to compute.
pub struct Decoder<'a, O: Ops> {
    pub ops: &'a O,
    pub base: &'a BaseModel<O>,
    pub adapter: &'a LoraAdapter<O>,
    /// From [`rope_angles`](super::rope_angles), for at least the longest sequence.
    pub angles: &'a O::Buffer,
    /// Of this micro-batch, in training. Its passes need scratch that has room for it.
    pub dropout: Option<Dropout>,
    /// Of this micro-batch's embeddings, in training.
    pub noise: Option<EmbeddingNoise>,
}

impl<O: Ops> Decoder<'_, O> {
    pub(super) fn block(&self, layer: usize) -> Block<'_, O> {
        Block {
            ops: self.ops,
            config: &self.base.config,
            weights: &self.base.layers[layer],
            adapter: BlockAdapter { adapter: self.adapter, layer, dropout: self.dropout },
            angles: self.angles,
        }
    }

    /// Embedding and all blocks; leaves the residual stream after the last, [`PackedBatch::output_rows`] of it, which [`Self::loss`] goes on with.
    pub fn forward(
        &self,
        batch: &PackedBatch<O>,
        activations: &mut Activations<O>,
        scratch: &mut Scratch<O>,
    ) -> Result<()> {
        let len = batch.rows * self.base.config.hidden_size;
        self.ops.embedding(&self.base.embed_tokens, &batch.ids, activations.streams.get_mut(0).into())?;
        if let Some(noise) = self.noise {
            let noise = noise.of(batch.longest, self.base.config.hidden_size);
            self.ops.add_noise(len, noise, activations.streams.get_mut(0).into())?;
        }
        for layer in 0..self.base.layers.len() {
            // While the block reads its input, that may be copied away.
            activations.streams.park(self.ops, layer, len)?;
            if let Some((parked, saved)) = activations.parked(layer) {
                parked.begin(layer, saved);
            }
            self.block(layer).forward(batch, activations.block(layer), scratch)?;
            if let Some((parked, saved)) = activations.parked(layer) {
                parked.park(self.ops, &self.base.config, layer, batch.rows, saved)?;
            }
        }
        Ok(())
    }

    /// Σ cross-entropy over the batch's labels, after [`Self::forward`]. With `grad_scale` it also starts the backward pass of
    /// `loss sum · grad_scale`, which [`Self::backward`] goes on with.
    pub fn loss(
        &self,
        batch: &PackedBatch<O>,
        activations: &Activations<O>,
        scratch: &mut Scratch<O>,
        head: &mut HeadScratch<O>,
        grad_scale: Option<f64>,
    ) -> Result<f64> {
        let stream = activations.streams.get(self.base.layers.len());
        head.loss(self.ops, self.base, batch, stream, scratch, grad_scale)
    }

    /// Adds the gradients of the adapter's matrices to `gradients`, laid out as its parameters. Uses up the activations.
    pub fn backward(
        &self,
        batch: &PackedBatch<O>,
        activations: &mut Activations<O>,
        scratch: &mut Scratch<O>,
        gradients: &mut O::Buffer,
    ) -> Result<()> {
        self.backward_by_block(batch, activations, scratch, gradients, |_, _| Ok(()))
    }

    /// As [`Self::backward`]; `block_done` is called with each block once its gradients are added, from the last down to the lowest that learns.
    pub fn backward_by_block(
        &self,
        batch: &PackedBatch<O>,
        activations: &mut Activations<O>,
        scratch: &mut Scratch<O>,
        gradients: &mut O::Buffer,
        mut block_done: impl FnMut(usize, &mut O::Buffer) -> Result<()>,
    ) -> Result<()> {
        let layout = &self.adapter.layout;
        // Below it nothing is learned.
        let Some(lowest) = layout.lowest_layer() else { return Ok(()) };
        let len = batch.rows * self.base.config.hidden_size;
        for layer in (lowest..self.base.layers.len()).rev() {
            activations.streams.fetch(self.ops, layer, len)?;
            if layer > lowest {
                // While this block computes, the next one's input may come back; the block that used its buffer is done.
                activations.streams.fetch(self.ops, layer - 1, len)?;
            }
            let again = activations.is_recomputed(layer);
            let mut there = Kept::Products;
            if let Some((parked, saved)) = activations.parked(layer) {
                parked.bring_back(self.ops, &self.base.config, layer, batch.rows, saved)?;
                if layer > lowest {
                    parked.prefetch(self.ops, &self.base.config, layer - 1, batch.rows)?;
                }
                there = Kept::Attention;
            }
            let KeptBlockMemory { input, saved, low_rank } = activations.kept_block(layer);
            if again {
                self.block(layer).forward_again(batch, input, saved, low_rank, there, scratch)?;
            }
            self.block(layer).backward(batch, input, saved, low_rank, scratch, gradients, layer > lowest)?;
            block_done(layer, gradients)?;
        }
        Ok(())
    }

    /// After a loss that is not finite: the first place of the forward pass that holds such a number. Reads everything back.
    pub fn first_non_finite(&self, batch: &PackedBatch<O>, activations: &mut Activations<O>) -> Result<String> {
        let (width, blocks) = (self.base.config.hidden_size, self.base.layers.len());
        let mut values = vec![O::Elem::from_f64(0.0); batch.rows * width];
        for layer in 0..=blocks {
            activations.streams.fetch(self.ops, layer, batch.rows * width)?;
            if layer == blocks {
                values.truncate(batch.output_rows() * width);
            }
            self.ops.read(View::from(activations.streams.get(layer)), &mut values)?;
            if values.iter().any(|value| !value.to_f64().is_finite()) {
                return Ok(match layer {
                    0 => "model.embed_tokens".to_owned(),
                    _ => format!("the output of model.layers.{}", layer - 1),
                });
            }
        }
        Ok("the logits".to_owned())
    }
}
