//! Sizes of a run's largest micro-batches: what its memory follows from.

use super::config::TrainConfig;
use super::plan::{TrainingPlan, most_together, most_within};
use crate::model::{Examples, IGNORED_LABEL};
use crate::ops::BatchSizes;

/// Sizes of the largest micro-batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Of training micro-batches.
    pub train: BatchSizes,
    /// Of evaluation batches; zeros where there are none.
    pub evaluation: BatchSizes,
    /// Labelled positions of either.
    pub labelled_rows: usize,
}

impl Sizes {
    /// Of a run.
    pub fn new(config: &TrainConfig, train: &dyn Examples, evaluation: Option<&dyn Examples>) -> Self {
        let mut sizes = Self::bound(config, train, evaluation, usize::MAX);
        sizes.train = TrainingPlan::new(config, train.lengths()).largest_batch();
        // Of several ranks, a batch may go on from the beginning.
        if let (Some(all), 1) = (evaluation, config.world_size) {
            sizes.evaluation.rows = largest_in_order(all, config.per_device_eval_batch_size);
        }
        sizes
    }

    /// Tokens of the largest batch of either kind.
    pub fn rows(&self) -> usize {
        self.train.rows.max(self.evaluation.rows)
    }

    /// Tokens of the longest example.
    pub fn longest(&self) -> usize {
        self.train.longest.max(self.evaluation.longest)
    }

    /// No less than those of a run whose examples are cut to `limit` tokens, whichever of them are left and however they are ordered then.
    pub fn bound(config: &TrainConfig, train: &dyn Examples, evaluation: Option<&dyn Examples>, limit: usize) -> Self {
        let (count, ranks) = (config.per_device_train_batch_size, config.world_size);
        let packed = config.packing_length.map(|length| count * length.min(limit));
        let training = Part::new(train, count, packed, limit, ranks);
        let evaluation = evaluation.map(|all| Part::new(all, config.per_device_eval_batch_size, None, limit, ranks));
        Self {
            train: training.batch,
            evaluation: evaluation.as_ref().map_or_else(BatchSizes::default, |part| part.batch),
            labelled_rows: evaluation.map_or(0, |part| part.labelled_rows).max(training.labelled_rows),
        }
    }
}

/// Bounds on the batches of one kind.
struct Part {
    batch: BatchSizes,
    labelled_rows: usize,
}

impl Part {
    /// Of batches of `count` examples or, packed, of at most `packed` tokens; examples are cut to `limit` tokens. Batches of several ranks are
    /// whole: where examples are few, the same are in one several times.
    fn new(all: &dyn Examples, count: usize, packed: Option<usize>, limit: usize, ranks: usize) -> Self {
        let times = if ranks == 1 { 1 } else { count.div_ceil(all.len().max(1)) };
        let lengths: Vec<u32> = (0..all.len()).map(|index| all.example_len(index).min(limit) as u32).collect();
        let lengths = lengths.repeat(times);
        let learned = |index| all.example(index).1.iter().take(limit).skip(1).filter(|label| **label != IGNORED_LABEL);
        let labels: Vec<usize> = (0..all.len()).map(|index| learned(index).count()).collect();
        let labels = labels.repeat(times).into_iter();
        let sequences = packed.map_or(count.min(lengths.len()), |tokens| most_within(&lengths, tokens));
        let most = most_together(lengths.iter().map(|length| *length as usize), sequences);
        let rows = packed.map_or(most, |tokens| most.min(tokens));
        let longest = all.longest().min(limit);
        Self {
            batch: BatchSizes { sequences, longest, rows },
            labelled_rows: most_together(labels, sequences).min(rows),
        }
    }
}

/// Most tokens of a batch of `count` examples taken in file order.
fn largest_in_order(examples: &dyn Examples, count: usize) -> usize {
    examples.lengths().chunks(count).map(|batch| batch.iter().map(|length| *length as usize).sum()).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::config::tests::config;
    use super::*;
    use crate::model::TokenExamples;
    use crate::random::MersenneTwister;

    /// Examples of these lengths, of which the last `labelled` positions are learned.
    fn examples(lengths: &[u32], labelled: u32) -> TokenExamples {
        let mut all = TokenExamples { offsets: vec![0], ..TokenExamples::default() };
        for length in lengths {
            let label = |position: u32| if position + labelled < *length { IGNORED_LABEL } else { 1 };
            all.labels.extend((0..*length).map(label));
            all.input_ids.extend((0..*length).map(|_| 1));
            all.offsets.push(all.input_ids.len() as u32);
        }
        all
    }

    /// No micro-batch of a packed run is larger, whether examples are cut or not.
    #[test]
    fn of_packed_runs() {
        let mut random = MersenneTwister::new(9);
        for round in 0..100 {
            let mut below = |count: u32| random.next_u32() % count;
            let lengths: Vec<u32> = (0..1 + below(40)).map(|_| 2 + below(30)).collect();
            let (limit, batch_size) = (4 + below(40), 1 + below(3) as usize);
            let settings = |packing_length: u32| TrainConfig {
                packing_length: Some(packing_length as usize),
                per_device_train_batch_size: batch_size,
                ..config()
            };
            let bound = Sizes::bound(&settings(32), &examples(&lengths, 3), None, limit as usize);
            let cut: Vec<u32> = lengths.iter().map(|length| *length.min(&limit)).collect();
            let (cut_examples, packing_length) = (examples(&cut, 3), limit.min(32));
            let sizes = Sizes::new(&settings(packing_length), &cut_examples, None);
            assert!(sizes.train.rows <= bound.train.rows && sizes.train.sequences <= bound.train.sequences, "{round}");
            assert!(sizes.labelled_rows <= sizes.train.rows && sizes.longest() <= bound.longest(), "{round}");
            let plan = TrainingPlan::new(&settings(packing_length), cut.clone());
            for batch in plan.order(round % 4).batches() {
                let tokens: u32 = batch.iter().map(|index| cut[*index as usize]).sum();
                let labels: usize = batch.iter().map(|index| cut_examples.label_count(*index as usize)).sum();
                assert!(tokens as usize <= sizes.train.rows && batch.len() <= sizes.train.sequences, "{round}");
                assert!(labels <= sizes.labelled_rows, "{round}");
            }
        }
    }

    #[test]
    fn of_a_run_and_of_one_with_shorter_examples() {
        let config =
            TrainConfig { per_device_train_batch_size: 2, per_device_eval_batch_size: 3, shuffle: false, ..config() };
        let (train, evaluation) = (examples(&[5, 2, 9, 3], 2), examples(&[4, 4, 4, 6], 1));
        let batch = |sequences, longest, rows| BatchSizes { sequences, longest, rows };
        let expected = Sizes { train: batch(2, 9, 12), evaluation: batch(0, 0, 0), labelled_rows: 4 };
        assert_eq!(Sizes::new(&config, &train, None), expected);
        assert_eq!((expected.rows(), expected.longest()), (12, 9));
        let expected = Sizes { evaluation: batch(3, 6, 12), ..expected };
        assert_eq!(Sizes::new(&config, &train, Some(&evaluation)), expected);
        // The two longest together; of 4 tokens, only the last examples' labels are left.
        let bound = Sizes::bound(&config, &train, Some(&evaluation), 4);
        assert_eq!(bound, Sizes { train: batch(2, 4, 8), evaluation: batch(3, 4, 12), labelled_rows: 3 });
    }
}
