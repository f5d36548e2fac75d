//! Which examples make up which step.

use std::ops::Range;

use super::config::TrainConfig;
use crate::model::TokenExamples;
use crate::random::MersenneTwister;

/// Examples times epochs up to which the largest micro-batch is looked for in the real order.
const PLANNED: u64 = 1 << 24;

/// Steps and order of a run, as transformers' Trainer makes them.
#[derive(Clone, Debug)]
pub struct TrainingPlan {
    examples: usize,
    batch_size: usize,
    accumulation: usize,
    /// Present where examples are shuffled.
    data_seed: Option<u64>,
    max_steps: u64,
}

impl TrainingPlan {
    /// A plan for `examples` examples, at least one. `config` must be valid.
    pub fn new(config: &TrainConfig, examples: usize) -> Self {
        let mut plan = Self {
            examples,
            batch_size: config.per_device_train_batch_size,
            accumulation: config.gradient_accumulation_steps,
            data_seed: config.shuffle.then_some(config.data_seed),
            max_steps: 0,
        };
        let from_epochs = (config.num_train_epochs * plan.steps_per_epoch() as f64).ceil() as u64;
        plan.max_steps = config.max_steps.unwrap_or(from_epochs.max(1));
        plan
    }

    /// Optimizer steps of the run.
    pub fn max_steps(&self) -> u64 {
        self.max_steps
    }

    /// Micro-batches of an epoch; the last one may be smaller.
    pub fn batches_per_epoch(&self) -> usize {
        self.examples.div_ceil(self.batch_size)
    }

    /// Optimizer steps of an epoch. A last group of fewer micro-batches is a step too.
    pub fn steps_per_epoch(&self) -> usize {
        self.batches_per_epoch().div_ceil(self.accumulation)
    }

    /// Epoch of a step, counted from 0.
    pub fn epoch(&self, step: u64) -> u64 {
        step / self.steps_per_epoch() as u64
    }

    /// Micro-batches of a step within its epoch.
    pub fn batches(&self, step: u64) -> Range<usize> {
        let first = (step % self.steps_per_epoch() as u64) as usize * self.accumulation;
        first..(first + self.accumulation).min(self.batches_per_epoch())
    }

    /// Number in the whole run of a micro-batch of a step, given by its number in the epoch.
    pub fn micro_batch(&self, step: u64, batch: usize) -> u64 {
        self.epoch(step) * self.batches_per_epoch() as u64 + batch as u64
    }

    /// Whether an epoch ends with a step.
    pub fn ends_epoch(&self, step: u64) -> bool {
        (step + 1).is_multiple_of(self.steps_per_epoch() as u64)
    }

    /// Epochs done after a step.
    pub fn epochs_done(&self, step: u64) -> f64 {
        self.epoch(step) as f64 + self.batches(step).end as f64 / self.batches_per_epoch() as f64
    }

    /// Order of the examples in an epoch: file order, or `torch.randperm` of a generator seeded with data_seed + epoch, as accelerate's
    /// SeedableRandomSampler.
    pub fn order(&self, epoch: u64) -> Vec<u32> {
        match self.data_seed {
            Some(seed) => MersenneTwister::new(seed.wrapping_add(epoch)).permutation(self.examples),
            None => (0..self.examples as u32).collect(),
        }
    }

    /// Positions in the epoch's order that a micro-batch takes.
    pub fn positions(&self, batch: usize) -> Range<usize> {
        let first = batch * self.batch_size;
        first..(first + self.batch_size).min(self.examples)
    }

    /// Tokens of the run's largest micro-batch; in very long runs an upper bound.
    pub fn largest_batch(&self, examples: &TokenExamples) -> usize {
        let epochs = match self.data_seed {
            Some(_) => self.max_steps.div_ceil(self.steps_per_epoch() as u64),
            None => 1,
        };
        if epochs.saturating_mul(self.examples as u64) > PLANNED {
            return examples.largest_batch(self.batch_size);
        }
        let tokens = |batch: &[u32]| batch.iter().map(|index| examples.example_len(*index as usize)).sum();
        let largest = |epoch| self.order(epoch).chunks(self.batch_size).map(tokens).max();
        (0..epochs).filter_map(largest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::tests::config;
    use super::*;

    fn plan(examples: usize, batch: usize, accumulation: usize, epochs: f64) -> TrainingPlan {
        let settings = TrainConfig {
            per_device_train_batch_size: batch,
            gradient_accumulation_steps: accumulation,
            num_train_epochs: epochs,
            ..config()
        };
        TrainingPlan::new(&settings, examples)
    }

    /// Every example once an epoch, groups of the right size, whatever does not divide evenly.
    #[test]
    fn every_epoch_takes_every_example_once() {
        for (examples, batch, accumulation) in [(1, 1, 1), (22, 2, 3), (7, 8, 4), (100, 8, 4), (9, 2, 2), (5, 3, 7)] {
            let plan = plan(examples, batch, accumulation, 3.0);
            assert_eq!(plan.max_steps(), 3 * plan.steps_per_epoch() as u64);
            for epoch in 0..3 {
                let order = plan.order(epoch);
                let mut seen = vec![0; examples];
                for step in epoch * plan.steps_per_epoch() as u64..(epoch + 1) * plan.steps_per_epoch() as u64 {
                    assert_eq!(plan.epoch(step), epoch);
                    assert!(!plan.batches(step).is_empty() && plan.batches(step).len() <= accumulation);
                    for position in plan.batches(step).flat_map(|batch| plan.positions(batch)) {
                        seen[order[position] as usize] += 1;
                    }
                }
                assert_eq!(seen, vec![1; examples], "{examples} examples, batch {batch}, accumulation {accumulation}");
            }
            let numbers = (0..plan.max_steps())
                .flat_map(|step| plan.batches(step).map(move |batch| (step, batch)))
                .map(|(step, batch)| plan.micro_batch(step, batch));
            assert!(numbers.eq(0..3 * plan.batches_per_epoch() as u64));
            let last = plan.max_steps() - 1;
            assert!(plan.ends_epoch(last));
            assert_eq!(plan.epochs_done(last), 3.0);
        }
    }

    /// `Trainer.set_initial_training_values` (transformers 5.23) and the epoch of `_inner_training_loop`, written out, for many sizes.
    #[test]
    fn steps_and_epochs_equal_trainers() {
        for examples in 1..40 {
            for (batch, accumulation, epochs) in [(1, 1, 3.0), (2, 3, 1.5), (8, 4, 0.3), (3, 2, 2.0), (7, 50, 4.7)] {
                let plan = plan(examples, batch, accumulation, epochs);
                let loader = examples / batch + usize::from(!examples.is_multiple_of(batch));
                let updates = (loader / accumulation + usize::from(!loader.is_multiple_of(accumulation))).max(1);
                let max_steps = (epochs * updates as f64).ceil() as u64;
                assert_eq!(plan.max_steps(), max_steps, "{examples} examples by {batch} by {accumulation}");
                // The loop: a step whenever a group is full or the loader ends.
                let mut step = 0;
                'epochs: for epoch in 0.. {
                    for batch in 0..loader {
                        if (batch + 1).is_multiple_of(accumulation) || batch + 1 == loader {
                            assert_eq!(plan.epochs_done(step), epoch as f64 + (batch + 1) as f64 / loader as f64);
                            step += 1;
                            if step == max_steps {
                                break 'epochs;
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn epochs_may_be_fractions_and_max_steps_overrides_them() {
        assert_eq!(plan(100, 8, 1, 0.5).max_steps(), 7);
        assert_eq!(plan(10, 8, 4, 0.01).max_steps(), 1);
        let settings = TrainConfig { max_steps: Some(50), ..config() };
        assert_eq!(TrainingPlan::new(&settings, 3).max_steps(), 50);
    }

    #[test]
    fn the_largest_micro_batch_is_that_of_the_real_order() {
        let lengths = [5u32, 1, 1, 5, 2];
        let mut offsets = vec![0];
        for length in lengths {
            offsets.push(offsets[offsets.len() - 1] + length);
        }
        let examples = TokenExamples { input_ids: vec![0; 14], labels: vec![0; 14], offsets };
        let settings = TrainConfig { shuffle: false, per_device_train_batch_size: 2, ..config() };
        assert_eq!(TrainingPlan::new(&settings, 5).largest_batch(&examples), 6);
        let shuffled = TrainConfig { shuffle: true, max_steps: Some(1 << 40), ..settings };
        assert_eq!(TrainingPlan::new(&shuffled, 5).largest_batch(&examples), 10, "the bound");
        let plan = TrainingPlan::new(&TrainConfig { max_steps: None, ..shuffled }, 5);
        let batches = (0..3).flat_map(|epoch| plan.order(epoch).chunks(2).map(<[u32]>::to_vec).collect::<Vec<_>>());
        let tokens = |batch: Vec<u32>| batch.iter().map(|index| lengths[*index as usize]).sum::<u32>() as usize;
        assert_eq!(Some(plan.largest_batch(&examples)), batches.map(tokens).max());
    }

    /// `torch.randperm(10, generator=torch.Generator().manual_seed(42 + epoch))`, torch 2.15.
    #[test]
    fn order_is_torchs() {
        let plan = TrainingPlan::new(&TrainConfig { shuffle: true, data_seed: 42, ..config() }, 10);
        assert_eq!(plan.order(0), [2, 6, 1, 8, 4, 5, 0, 9, 3, 7]);
        assert_eq!(plan.order(1), [8, 4, 9, 0, 5, 1, 6, 7, 2, 3]);
        let straight = TrainingPlan::new(&TrainConfig { shuffle: false, ..config() }, 4);
        assert_eq!(straight.order(5), [0, 1, 2, 3]);
    }
}
