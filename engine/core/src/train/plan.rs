//! Which examples make up which step.

use std::ops::Range;

use super::config::TrainConfig;
use super::order::{EpochOrder, length_grouped};
use super::packing::pack;
use crate::ops::BatchSizes;
use crate::random::MersenneTwister;

/// Examples times epochs up to which the largest micro-batch is looked for in the real order.
const PLANNED: u64 = 1 << 24;

/// What sequences are packed into.
#[derive(Clone, Copy, Debug)]
struct Packing {
    /// Tokens of a sequence, at most.
    length: u32,
    /// Tokens of the fullest sequences that make up a micro-batch. Sums of sequences are the same in every epoch.
    largest_batch: usize,
}

/// Steps and order of a run, as transformers' Trainer makes them. A micro-batch is a number of sequences: examples, or packed from them.
///
/// Of several ranks, as accelerate's BatchSamplerShard deals micro-batches to them: one after another in turn, a round at a time. Of an epoch
/// that does not fill its last round with whole micro-batches, the order is continued from its beginning. So the micro-batches of a step are
/// those of one rank that accumulates as many times more.
#[derive(Clone, Debug)]
pub struct TrainingPlan {
    /// Tokens of each example.
    lengths: Vec<u32>,
    /// Sequences of an epoch.
    sequences: usize,
    batch_size: usize,
    /// Of one rank.
    accumulation: usize,
    ranks: usize,
    /// None: sequences are examples.
    packing: Option<Packing>,
    group_by_length: bool,
    /// Present where examples are shuffled.
    data_seed: Option<u64>,
    max_steps: u64,
}

impl TrainingPlan {
    /// A plan for examples of these lengths, at least one. `config` must be valid, and no example longer than what is packed into.
    pub fn new(config: &TrainConfig, lengths: Vec<u32>) -> Self {
        let mut plan = Self {
            sequences: lengths.len(),
            lengths,
            batch_size: config.per_device_train_batch_size,
            accumulation: config.gradient_accumulation_steps,
            ranks: config.world_size,
            packing: None,
            group_by_length: config.group_by_length,
            data_seed: config.shuffle.then_some(config.data_seed),
            max_steps: 0,
        };
        if let Some(length) = config.packing_length {
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            let packed = pack(&plan.in_file_order(), &plan.lengths, length);
            plan.sequences = packed.len();
            let tokens = plan.whole_rounds(packed.iter().map(|sequence| plan.tokens(sequence)).collect());
            plan.packing = Some(Packing { length, largest_batch: most_together(tokens.into_iter(), plan.batch_size) });
        }
        let from_epochs = (config.num_train_epochs * plan.steps_per_epoch() as f64).ceil() as u64;
        plan.max_steps = config.max_steps.unwrap_or(from_epochs.max(1));
        plan
    }

    /// Optimizer steps of the run.
    pub fn max_steps(&self) -> u64 {
        self.max_steps
    }

    /// Sequences of an epoch: examples, or those packed from them, which are equally many in each epoch.
    pub fn sequences(&self) -> usize {
        self.sequences
    }

    /// Micro-batches of an epoch, of all ranks; of one rank, the last one may be smaller.
    pub fn batches_per_epoch(&self) -> usize {
        self.sequences.div_ceil(self.batch_size).next_multiple_of(self.ranks)
    }

    /// An epoch's sequences, or something of each: of several ranks, continued from the beginning until every rank's last micro-batch is whole.
    fn whole_rounds<T: Clone>(&self, sequences: Vec<T>) -> Vec<T> {
        if self.ranks == 1 {
            return sequences;
        }
        let count = self.batches_per_epoch() * self.batch_size;
        sequences.iter().cycle().take(count).cloned().collect()
    }

    /// Optimizer steps of an epoch. A last group of fewer micro-batches is a step too.
    pub fn steps_per_epoch(&self) -> usize {
        self.batches_per_epoch().div_ceil(self.batches_per_step())
    }

    /// Micro-batches of a step, of all ranks.
    fn batches_per_step(&self) -> usize {
        self.accumulation * self.ranks
    }

    /// Epoch of a step, counted from 0.
    pub fn epoch(&self, step: u64) -> u64 {
        step / self.steps_per_epoch() as u64
    }

    /// Micro-batches of a step within its epoch: whole rounds, in each of which a rank takes the one of its number.
    pub fn batches(&self, step: u64) -> Range<usize> {
        let first = (step % self.steps_per_epoch() as u64) as usize * self.batches_per_step();
        first..(first + self.batches_per_step()).min(self.batches_per_epoch())
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

    fn in_file_order(&self) -> Vec<u32> {
        (0..self.lengths.len() as u32).collect()
    }

    /// Tokens of some examples.
    fn tokens(&self, examples: &[u32]) -> usize {
        examples.iter().map(|index| self.lengths[*index as usize] as usize).sum()
    }

    /// Examples of an epoch's micro-batches. File order, or `torch.randperm` of a generator seeded with data_seed + epoch, as accelerate's
    /// SeedableRandomSampler; grouped by length from that. Packed sequences are made anew from each epoch's order and, where that is random,
    /// shuffled themselves by the same generator.
    pub fn order(&self, epoch: u64) -> EpochOrder {
        let mut random = self.data_seed.map(|seed| MersenneTwister::new(seed.wrapping_add(epoch)));
        let mut permutation = |count: usize| random.as_mut().map(|random| random.permutation(count));
        let order = permutation(self.lengths.len()).unwrap_or_else(|| self.in_file_order());
        let Some(Packing { length, .. }) = self.packing else {
            let grouped = self.group_by_length.then_some(self.batch_size * self.accumulation);
            let order = match grouped {
                Some(step) => length_grouped(order, &self.lengths, step),
                None => order,
            };
            return EpochOrder::of_examples(self.whole_rounds(order), self.batch_size);
        };
        let mut packed = pack(&order, &self.lengths, length);
        if let Some(places) = permutation(packed.len()) {
            packed = places.into_iter().map(|place| std::mem::take(&mut packed[place as usize])).collect();
        }
        EpochOrder::of_sequences(&self.whole_rounds(packed), self.batch_size)
    }

    /// The run's largest micro-batches; an upper bound in very long runs and of packed sequences, whose examples change from epoch to epoch.
    pub fn largest_batch(&self) -> BatchSizes {
        let longest = self.lengths.iter().max().map_or(0, |length| *length as usize);
        if let Some(Packing { largest_batch: rows, .. }) = self.packing {
            return BatchSizes { sequences: most_within(&self.repeated_lengths(), rows), longest, rows };
        }
        let lengths = self.repeated_lengths();
        let sequences = self.batch_size.min(lengths.len());
        let epochs = match self.data_seed {
            Some(_) => self.max_steps.div_ceil(self.steps_per_epoch() as u64),
            None => 1,
        };
        let rows = if epochs.saturating_mul(self.lengths.len() as u64) > PLANNED {
            most_together(lengths.iter().map(|length| *length as usize), self.batch_size)
        } else {
            (0..epochs)
                .filter_map(|epoch| self.order(epoch).batches().map(|batch| self.tokens(batch)).max())
                .max()
                .unwrap_or(0)
        };
        BatchSizes { sequences, longest, rows }
    }
}

impl TrainingPlan {
    /// The lengths of the examples that one micro-batch may have, each as often as it may.
    fn repeated_lengths(&self) -> Vec<u32> {
        let times = if self.ranks == 1 { 1 } else { self.batch_size.div_ceil(self.sequences) };
        self.lengths.repeat(times)
    }
}

/// The largest sum of `count` numbers.
pub(super) fn most_together(numbers: impl Iterator<Item = usize>, count: usize) -> usize {
    let mut numbers: Vec<usize> = numbers.collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers.iter().take(count).sum()
}

/// How many of the numbers at most have together no more than `sum`.
pub(super) fn most_within(numbers: &[u32], sum: usize) -> usize {
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    let sums = numbers.iter().scan(0, |total, number| {
        *total += *number as usize;
        Some(*total)
    });
    sums.take_while(|total| *total <= sum).count()
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
        TrainingPlan::new(&settings, vec![1; examples])
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
                    for example in plan.batches(step).flat_map(|batch| order.batch(batch)) {
                        seen[*example as usize] += 1;
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
        assert_eq!(TrainingPlan::new(&settings, vec![1; 3]).max_steps(), 50);
    }

    #[test]
    fn the_largest_micro_batch_is_that_of_the_real_order() {
        let lengths = vec![5u32, 1, 1, 5, 2];
        let settings = TrainConfig { shuffle: false, per_device_train_batch_size: 2, ..config() };
        let largest = |settings: &TrainConfig| TrainingPlan::new(settings, lengths.clone()).largest_batch();
        assert_eq!(largest(&settings), BatchSizes { sequences: 2, longest: 5, rows: 6 });
        let shuffled = TrainConfig { shuffle: true, max_steps: Some(1 << 40), ..settings };
        assert_eq!(largest(&shuffled).rows, 10, "the bound");
        let shuffled = TrainConfig { max_steps: None, ..shuffled };
        let plan = TrainingPlan::new(&shuffled, lengths.clone());
        let tokens = |batch: &[u32]| batch.iter().map(|index| lengths[*index as usize]).sum::<u32>() as usize;
        let rows = (0..3).filter_map(|epoch| plan.order(epoch).batches().map(tokens).max()).max();
        assert_eq!(Some(largest(&shuffled).rows), rows);
    }

    /// `torch.randperm(10, generator=torch.Generator().manual_seed(42 + epoch))`, torch 2.15.
    #[test]
    fn order_is_torchs() {
        let plan = TrainingPlan::new(&TrainConfig { shuffle: true, data_seed: 42, ..config() }, vec![1; 10]);
        assert_eq!(plan.order(0).examples(), [2, 6, 1, 8, 4, 5, 0, 9, 3, 7]);
        assert_eq!(plan.order(1).examples(), [8, 4, 9, 0, 5, 1, 6, 7, 2, 3]);
        let straight = TrainingPlan::new(&TrainConfig { shuffle: false, ..config() }, vec![1; 4]);
        assert_eq!(straight.order(5).examples(), [0, 1, 2, 3]);
    }

    /// Whatever the lengths: each example once an epoch, the same number of steps in each, micro-batches within what was planned; epochs
    /// that differ, and the same ones again from the same seed.
    #[test]
    fn packed_epochs() {
        let mut random = MersenneTwister::new(3);
        for round in 0..50u64 {
            let lengths: Vec<u32> = (0..20 + random.next_u32() % 200).map(|_| 1 + random.next_u32() % 40).collect();
            let (batch_size, accumulation) = (1 + round as usize % 4, 1 + round as usize % 3);
            let settings = TrainConfig {
                per_device_train_batch_size: batch_size,
                gradient_accumulation_steps: accumulation,
                packing_length: Some(64),
                data_seed: round,
                ..config()
            };
            let plan = TrainingPlan::new(&settings, lengths.clone());
            let largest = plan.largest_batch();
            assert!(largest.rows <= batch_size * 64 && largest.longest == *lengths.iter().max().unwrap() as usize);
            assert!(plan.sequences() < lengths.len());
            let orders: Vec<EpochOrder> = (0..3).map(|epoch| plan.order(epoch)).collect();
            assert!(orders[0] != orders[1] && orders[1] != orders[2]);
            for (epoch, order) in orders.iter().enumerate() {
                assert_eq!(*order, TrainingPlan::new(&settings, lengths.clone()).order(epoch as u64));
                assert_eq!(order.batches().count(), plan.batches_per_epoch());
                for batch in order.batches() {
                    assert!(
                        !batch.is_empty() && batch.len() <= largest.sequences && plan.tokens(batch) <= largest.rows
                    );
                }
                let mut seen = order.examples().to_vec();
                seen.sort_unstable();
                assert_eq!(seen, plan.in_file_order());
            }
            assert_eq!(plan.max_steps(), 3 * plan.batches_per_epoch().div_ceil(accumulation) as u64);
        }
    }

    #[test]
    fn packed_without_shuffling_sequences_follow_the_file() {
        let settings =
            TrainConfig { packing_length: Some(6), shuffle: false, per_device_train_batch_size: 2, ..config() };
        let plan = TrainingPlan::new(&settings, vec![4, 3, 2, 3, 6]);
        assert!((0..2).all(|epoch| plan.order(epoch).batches().eq([&[0, 2, 1, 3][..], &[4]])));
        assert_eq!(plan.largest_batch(), BatchSizes { sequences: 4, longest: 6, rows: 12 });
    }

    /// Groups are made for whole steps, as Trainer makes them.
    #[test]
    fn grouped_by_length() {
        let lengths: Vec<u32> = (0..40).map(|index| 1 + index * 7919 % 37).collect();
        let settings = TrainConfig {
            group_by_length: true,
            per_device_train_batch_size: 2,
            gradient_accumulation_steps: 2,
            ..config()
        };
        let plan = TrainingPlan::new(&settings, lengths.clone());
        let random = MersenneTwister::new(settings.data_seed + 1).permutation(40);
        assert_eq!(plan.order(1).examples(), length_grouped(random, &lengths, 4));
        assert_eq!(plan.max_steps(), 30);
        let first = plan.order(0).batch(0)[0];
        assert_eq!(lengths[first as usize], 37);
    }
}
