//! Which evaluation examples a rank takes, as accelerate deals them: batches in turn, the last round completed from the beginning
//! (`even_batches`), and of what is gathered only as many as there are examples (`gather_for_metrics`).

use std::ops::Range;

use super::config::TrainConfig;
use super::loss_normalization::LossNormalization;

/// How the evaluation examples are dealt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EvaluationShares {
    pub examples: usize,
    pub batch_size: usize,
    pub ranks: usize,
}

impl EvaluationShares {
    pub fn new(config: &TrainConfig, examples: usize) -> Self {
        Self { examples, batch_size: config.per_device_eval_batch_size, ranks: config.world_size }
    }

    /// In each of which every rank takes one batch.
    pub fn rounds(self) -> usize {
        self.examples.div_ceil(self.batch_size * self.ranks)
    }

    fn places(self, round: usize, rank: usize) -> Range<usize> {
        let first = (round * self.ranks + rank) * self.batch_size;
        first..first + self.batch_size
    }

    /// A rank's batch: the examples that nobody takes twice, and those from the beginning that complete it. One rank completes nothing.
    pub fn batch(self, round: usize, rank: usize) -> [Vec<u32>; 2] {
        let places = self.places(round, rank);
        let border = self.examples.clamp(places.start, places.end);
        let repeated = if self.ranks == 1 { 0..0 } else { border..places.end };
        [
            (places.start..border).map(|place| place as u32).collect(),
            repeated.map(|place| (place % self.examples) as u32).collect(),
        ]
    }

    /// What Trainer divides the sum of a batch's losses by for that batch's mean: the label tokens of the whole round, a device's part of them on
    /// average; or the batch's own.
    pub fn divisor(self, config: &TrainConfig, round: usize, rank: usize, labels: impl Fn(u32) -> usize) -> f64 {
        let of = |rank: usize| self.batch(round, rank).into_iter().flatten().map(&labels).sum::<usize>() as f64;
        if config.loss_normalization == LossNormalization::Tokens && config.average_tokens_across_devices {
            (0..self.ranks).map(of).sum::<f64>() / self.ranks as f64
        } else {
            of(rank)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::tests::config;
    use super::*;

    /// ```python
    /// from accelerate.data_loader import BatchSamplerShard
    /// from torch.utils.data import BatchSampler, SequentialSampler
    /// batches = BatchSampler(SequentialSampler(range(examples)), batch_size, False)
    /// list(BatchSamplerShard(batches, ranks, rank))
    /// ```
    #[test]
    fn batches_are_accelerates() {
        let shares = EvaluationShares { examples: 7, batch_size: 2, ranks: 2 };
        let all = |rank: usize| (0..shares.rounds()).map(|round| shares.batch(round, rank)).collect::<Vec<_>>();
        assert_eq!(all(0), [[vec![0, 1], vec![]], [vec![4, 5], vec![]]]);
        assert_eq!(all(1), [[vec![2, 3], vec![]], [vec![6], vec![0]]]);
        let few = EvaluationShares { examples: 3, batch_size: 4, ranks: 2 };
        assert_eq!(few.batch(0, 0), [vec![0, 1, 2], vec![0]]);
        assert_eq!(few.batch(0, 1), [vec![], vec![1, 2, 0, 1]]);
        let alone = EvaluationShares { examples: 3, batch_size: 2, ranks: 1 };
        assert_eq!((alone.rounds(), alone.batch(1, 0)), (2, [vec![2], vec![]]));
    }

    /// Whatever the sizes: each example once, as what is gathered is cut to as many.
    #[test]
    fn every_example_counts_once() {
        for (examples, batch_size, ranks) in [(1, 1, 1), (10, 3, 1), (10, 3, 2), (9, 2, 4), (5, 8, 3), (12, 2, 3)] {
            let shares = EvaluationShares { examples, batch_size, ranks };
            let rounds = (0..shares.rounds()).flat_map(|round| (0..ranks).map(move |rank| shares.batch(round, rank)));
            let seen: Vec<u32> = rounds.flat_map(|[once, _]| once).collect();
            assert_eq!(seen, (0..examples as u32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn divisors() {
        let shares = EvaluationShares { examples: 3, batch_size: 1, ranks: 2 };
        let labels = |index: u32| [3, 5, 8][index as usize];
        let own = TrainConfig { average_tokens_across_devices: false, ..config() };
        assert_eq!([0, 1].map(|round| shares.divisor(&config(), round, 0, labels)), [4.0, 5.5]);
        assert_eq!([0, 1].map(|rank| shares.divisor(&own, 1, rank, labels)), [8.0, 3.0]);
        let alone = EvaluationShares { ranks: 1, ..shares };
        assert_eq!(alone.divisor(&config(), 1, 0, labels), 5.0);
    }
}
