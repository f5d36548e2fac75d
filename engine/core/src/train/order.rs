//! Orders of the examples of an epoch.

use std::cmp::Reverse;

/// Mega-batches hold at most so many batches.
const MEGA_BATCHES: usize = 50;

/// Which examples each micro-batch of an epoch takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochOrder {
    examples: Vec<u32>,
    /// Where each micro-batch ends.
    ends: Vec<usize>,
}

impl EpochOrder {
    /// Batches of `size` examples; the last one may be smaller.
    pub(super) fn of_examples(examples: Vec<u32>, size: usize) -> Self {
        let count = examples.len();
        let ends = (1..=count.div_ceil(size)).map(|batch| (batch * size).min(count)).collect();
        Self { examples, ends }
    }

    /// Batches of `size` sequences; the last one may be smaller.
    pub(super) fn of_sequences(sequences: &[Vec<u32>], size: usize) -> Self {
        let mut end = 0;
        let ends = sequences.chunks(size).map(|batch| {
            end += batch.iter().map(Vec::len).sum::<usize>();
            end
        });
        Self { ends: ends.collect(), examples: sequences.iter().flatten().copied().collect() }
    }

    /// Examples of a micro-batch, by its number in the epoch.
    pub fn batch(&self, batch: usize) -> &[u32] {
        let first = batch.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.examples[first..self.ends[batch]]
    }

    /// All micro-batches.
    pub fn batches(&self) -> impl Iterator<Item = &[u32]> {
        (0..self.ends.len()).map(|batch| self.batch(batch))
    }

    /// All examples.
    pub fn examples(&self) -> &[u32] {
        &self.examples
    }
}

/// Groups of about equal lengths from a random order: transformers' `get_length_grouped_indices` (5.23, `trainer_pt_utils.py`), whose
/// `batch_size` is that of a whole step. The order is cut into mega-batches of up to 50 batches, each of them sorted, the longest first; the
/// longest of all then changes places with the first of the epoch, so that memory that does not suffice is seen at once.
pub(super) fn length_grouped(mut order: Vec<u32>, lengths: &[u32], batch_size: usize) -> Vec<u32> {
    let length = |index: &u32| lengths[*index as usize];
    let batches = (lengths.len() / (batch_size * 4)).clamp(1, MEGA_BATCHES);
    let size = batches * batch_size;
    let mut longest = 0;
    for first in (0..order.len()).step_by(size) {
        let end = (first + size).min(order.len());
        order[first..end].sort_by_key(|index| Reverse(length(index)));
        if length(&order[first]) > length(&order[longest]) {
            longest = first;
        }
    }
    if !order.is_empty() {
        order.swap(0, longest);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::MersenneTwister;
    use serde_json::Value;

    /// `test/parity/make_length_groups.py`.
    #[test]
    fn groups_are_transformers() {
        let text = std::fs::read_to_string("../../test/parity/golden/length_groups.json").unwrap();
        let golden: Value = serde_json::from_str(&text).unwrap();
        let numbers = |value: &Value| -> Vec<u32> {
            value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap() as u32).collect()
        };
        let cases = golden["cases"].as_array().unwrap();
        assert!(cases.len() > 4);
        for case in cases {
            let lengths = numbers(&case["lengths"]);
            let order = MersenneTwister::new(case["seed"].as_u64().unwrap()).permutation(lengths.len());
            let batch_size = case["batch_size"].as_u64().unwrap() as usize;
            assert_eq!(
                length_grouped(order, &lengths, batch_size),
                numbers(&case["order"]),
                "{} examples",
                lengths.len()
            );
        }
    }

    #[test]
    fn batches_of_examples_and_of_sequences() {
        let order = EpochOrder::of_examples(vec![3, 0, 2, 1, 4], 2);
        assert!(order.batches().eq([&[3, 0][..], &[2, 1], &[4]]));
        let order = EpochOrder::of_sequences(&[vec![3], vec![0, 2, 1], vec![4, 5]], 2);
        assert!(order.batches().eq([&[3, 0, 2, 1][..], &[4, 5]]));
        assert_eq!((order.batch(1), order.examples()), (&[4, 5][..], &[3, 0, 2, 1, 4, 5][..]));
    }
}
