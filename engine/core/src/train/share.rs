//! A rank's share of a run: its number, the reduction of its gradients, and what all ranks decide by.

use std::ops::Range;
use std::sync::Arc;

use super::events::DeviceStep;
use crate::error::Result;
use crate::lora::LoraLayout;
use crate::ops::Ops;
use crate::ranks::Collective;

/// Gradients that are reduced together, once the backward pass of the lowest block among them is done.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bucket {
    layer: usize,
    range: Range<usize>,
}

/// From the last block down, so that a bucket is complete before the next. Each has at least `least` numbers, but for the last.
fn buckets(layout: &LoraLayout, layers: usize, least: usize) -> Vec<Bucket> {
    let (mut buckets, mut end) = (Vec::new(), layout.len());
    for layer in (0..layers).rev() {
        let start = layout.layer_start(layer);
        if end - start >= least.max(1) || (layer == 0 && end > 0) {
            buckets.push(Bucket { layer, range: start..end });
            end = start;
        }
    }
    buckets
}

/// What a rank tells the others at the end of a step.
#[derive(Clone, Debug)]
pub(super) struct StepReport {
    /// Of its own micro-batches.
    pub loss: f64,
    /// Of the summed gradients.
    pub grad_norm: f64,
    pub device: DeviceStep,
    /// Why its gradients are of no use.
    pub failure: Option<String>,
}

/// A rank among others, or alone.
pub(super) struct Share<O: Ops> {
    /// None: alone.
    collective: Option<Arc<dyn Collective<O>>>,
    buckets: Vec<Bucket>,
    /// Buckets of the step under way whose reduction was begun.
    begun: usize,
}

impl<O: Ops> Share<O> {
    /// Of gradients that lie as `layout` says, of a model with so many blocks.
    pub fn new(collective: Option<Arc<dyn Collective<O>>>, layout: &LoraLayout, layers: usize) -> Self {
        let least = collective.as_ref().and_then(|found| found.bucket_len()).unwrap_or(usize::MAX);
        let buckets = if collective.is_some() { buckets(layout, layers, least) } else { Vec::new() };
        Self { collective, buckets, begun: 0 }
    }

    /// From 0.
    pub fn rank(&self) -> usize {
        self.collective.as_ref().map_or(0, |found| found.rendezvous().rank())
    }

    /// How many there are.
    pub fn ranks(&self) -> usize {
        self.collective.as_ref().map_or(1, |found| found.rendezvous().ranks())
    }

    /// In the backward pass of a step's last micro-batch, once that of a block is done: begins to reduce what has become final.
    pub fn block_done(&mut self, ops: &O, layer: usize, gradients: &mut O::Buffer) -> Result<()> {
        self.reduce_while(ops, gradients, |bucket| bucket.layer >= layer)
    }

    /// After the last micro-batch: whatever is left to reduce. Afterwards the gradients are those of all ranks.
    pub fn reduce(&mut self, ops: &O, gradients: &mut O::Buffer) -> Result<()> {
        self.reduce_while(ops, gradients, |_| true)?;
        self.begun = 0;
        self.collective.as_ref().map_or(Ok(()), |found| found.finish(ops))
    }

    fn reduce_while(&mut self, ops: &O, gradients: &mut O::Buffer, is_final: impl Fn(&Bucket) -> bool) -> Result<()> {
        let Some(collective) = &self.collective else { return Ok(()) };
        while let Some(bucket) = self.buckets.get(self.begun).filter(|bucket| is_final(bucket)) {
            self.begun += 1;
            collective.all_reduce(ops, gradients, bucket.range.clone())?;
        }
        Ok(())
    }

    /// Seconds that the step's reductions took from computing.
    pub fn take_communication_seconds(&self) -> f64 {
        self.collective.as_ref().map_or(0.0, |found| found.take_seconds())
    }

    /// The reports of all ranks, in their order.
    ///
    /// Errors: those of the rendezvous.
    pub fn exchange(&self, own: StepReport) -> Result<Vec<StepReport>> {
        let Some(collective) = &self.collective else { return Ok(vec![own]) };
        let DeviceStep { tokens_per_second, allocated_bytes, peak_allocated_bytes, communication_share } = own.device;
        let memory = [allocated_bytes as f64, peak_allocated_bytes as f64];
        let numbers = [own.loss, own.grad_norm, tokens_per_second, communication_share, memory[0], memory[1]];
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let length = bytes.len();
        if let Some(failure) = &own.failure {
            bytes.extend_from_slice(failure.as_bytes());
        }
        let gathered = collective.rendezvous().all_gather(&bytes)?;
        let report = |(rank, bytes): (usize, &Vec<u8>)| {
            let (numbers, failure) = bytes.split_at(length);
            let number = |index: usize| f64::from_le_bytes(numbers.as_chunks().0[index]);
            let failure = (!failure.is_empty()).then(|| format!("rank {rank}: {}", String::from_utf8_lossy(failure)));
            let device = DeviceStep {
                tokens_per_second: number(2),
                communication_share: number(3),
                allocated_bytes: number(4) as u64,
                peak_allocated_bytes: number(5) as u64,
            };
            StepReport { loss: number(0), grad_norm: number(1), device, failure }
        };
        Ok(gathered.iter().enumerate().map(report).collect())
    }

    /// Sums over the ranks, in their order.
    ///
    /// Errors: those of the rendezvous.
    pub fn sum<const N: usize>(&self, own: [f64; N]) -> Result<[f64; N]> {
        let Some(collective) = &self.collective else { return Ok(own) };
        let all = collective.rendezvous().gather_numbers(&own)?;
        Ok(std::array::from_fn(|index| all.iter().map(|numbers| numbers[index]).sum()))
    }
}

/// The largest number of any rank.
///
/// Errors: those of the rendezvous.
pub(super) fn largest<O: Ops>(collective: &dyn Collective<O>, own: usize) -> Result<usize> {
    let all = collective.rendezvous().gather_numbers(&[own as f64])?;
    Ok(all.iter().map(|numbers| numbers[0] as usize).fold(own, usize::max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ModelConfig, Variant};
    use crate::lora::LoraConfig;

    /// Every number once, from the end; a bucket never holds a block that is not done.
    #[test]
    fn buckets_cover_the_gradients_once() {
        let model = ModelConfig {
            model_type: "llama".to_owned(),
            vocab_size: 32,
            hidden_size: 8,
            intermediate_size: 12,
            num_hidden_layers: 5,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            head_dim: 4,
            sliding_window: None,
            max_position_embeddings: 64,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            tie_word_embeddings: true,
            variant: Variant::default(),
            eos_token_ids: vec![],
            bos_token_id: None,
        };
        let mut lora = LoraConfig::default();
        for layers_to_transform in [None, Some(vec![1, 3])] {
            lora.targets.layers_to_transform = layers_to_transform;
            let layout = LoraLayout::for_config(&model, &lora).unwrap();
            let block = layout.len().div_ceil(5);
            for least in [0, 1, block + 1, 3 * block, usize::MAX] {
                let buckets = buckets(&layout, 5, least);
                let mut end = layout.len();
                for bucket in &buckets {
                    assert!(bucket.range.end == end && !bucket.range.is_empty());
                    assert_eq!(bucket.range.start, layout.layer_start(bucket.layer));
                    end = bucket.range.start;
                }
                assert_eq!(end, 0);
                assert!(buckets.split_last().unwrap().1.iter().all(|bucket| bucket.range.len() >= least));
                assert!(least > 1 || buckets.len() == if lora.targets.layers_to_transform.is_some() { 2 } else { 5 });
                assert!(least < usize::MAX || buckets.len() == 1);
            }
        }
    }
}
