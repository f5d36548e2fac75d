//! Whole examples into sequences of a fixed length, by best fit, the longest first.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Packs examples into sequences of at most `capacity` tokens, each example no longer than that: the longest first, each into the sequence
/// with the least room that holds it (best-fit decreasing). How many sequences there are, and how full, follows from the lengths alone;
/// which of equally long examples share one follows from `order`.
///
/// Sequences come in the order in which `order` has the first example of each.
pub(super) fn pack(order: &[u32], lengths: &[u32], capacity: u32) -> Vec<Vec<u32>> {
    let mut longest_first: Vec<u32> = (0..order.len() as u32).collect();
    let length = |place: u32| lengths[order[place as usize] as usize];
    longest_first.sort_by_key(|place| Reverse(length(*place)));
    let mut sequences: Vec<Vec<u32>> = Vec::new();
    // Numbers of sequences by the room they have left.
    let mut by_room: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for place in longest_first {
        let tightest =
            by_room.range_mut(length(place)..).next().map(|(room, open)| (*room, open.pop(), open.is_empty()));
        let (room, number) = match tightest {
            Some((room, Some(number), emptied)) => {
                if emptied {
                    by_room.remove(&room);
                }
                (room, number)
            }
            _ => {
                sequences.push(Vec::new());
                (capacity, sequences.len() - 1)
            }
        };
        sequences[number].push(place);
        let left = room - length(place);
        if left > 0 {
            by_room.entry(left).or_default().push(number);
        }
    }
    for places in &mut sequences {
        places.sort_unstable();
    }
    sequences.sort_unstable_by_key(|places| places[0]);
    for place in sequences.iter_mut().flatten() {
        *place = order[*place as usize];
    }
    sequences
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::MersenneTwister;

    fn straight(lengths: &[u32]) -> Vec<u32> {
        (0..lengths.len() as u32).collect()
    }

    #[test]
    fn the_longest_goes_first_into_the_tightest_place() {
        // 6 and 4 fill one; 5 and 3 leave 2 of 10, which takes the 2 though the third sequence has more room.
        let lengths = [2, 5, 6, 3, 4, 9];
        let packed = pack(&straight(&lengths), &lengths, 10);
        assert_eq!(packed, [vec![0, 1, 3], vec![2, 4], vec![5]]);
        assert_eq!(pack(&[], &lengths, 10), Vec::<Vec<u32>>::new());
    }

    /// Whatever the lengths and the order: each example once, none too long, as many sequences as in any other order, equally full.
    #[test]
    fn whole_examples_and_counts_that_no_order_changes() {
        let mut random = MersenneTwister::new(5);
        for round in 0..200 {
            let capacity = 1 + random.next_u32() % 64;
            let lengths: Vec<u32> = (0..random.next_u32() % 60).map(|_| 1 + random.next_u32() % capacity).collect();
            let tokens = |sequence: &Vec<u32>| sequence.iter().map(|index| lengths[*index as usize]).sum::<u32>();
            let fills = |packed: &[Vec<u32>]| {
                let mut fills: Vec<(u32, usize)> = packed.iter().map(|one| (tokens(one), one.len())).collect();
                fills.sort_unstable();
                fills
            };
            let order = random.permutation(lengths.len());
            let packed = pack(&order, &lengths, capacity);
            assert_eq!(packed, pack(&order, &lengths, capacity));
            assert!(packed.iter().all(|sequence| !sequence.is_empty() && tokens(sequence) <= capacity), "{round}");
            let mut seen: Vec<u32> = packed.iter().flatten().copied().collect();
            seen.sort_unstable();
            assert_eq!(seen, straight(&lengths));
            let other = pack(&straight(&lengths), &lengths, capacity);
            let sums = |packed: &[Vec<u32>]| fills(packed).into_iter().map(|(tokens, _)| tokens).collect::<Vec<_>>();
            assert_eq!(sums(&packed), sums(&other), "{round}: {lengths:?} in {capacity}");
        }
    }

    /// Questions and answers of a few dozen to a few hundred tokens, log-normal as such data is: at least 98 of 100 places are taken.
    #[test]
    fn short_answers_fill_sequences() {
        let mut random = MersenneTwister::new(1);
        let mut unit = || (f64::from(random.next_u32()) + 0.5) / 4_294_967_296.0;
        let mut normal = || (-2.0 * unit().ln()).sqrt() * (std::f64::consts::TAU * unit()).cos();
        for capacity in [1024, 2048] {
            let lengths: Vec<u32> = (0..5000).map(|_| (normal() * 0.7 + 4.6).exp().clamp(8.0, 1024.0) as u32).collect();
            let packed = pack(&straight(&lengths), &lengths, capacity);
            let tokens: u64 = lengths.iter().map(|length| u64::from(*length)).sum();
            let share = tokens as f64 / (packed.len() as f64 * f64::from(capacity));
            assert!(share >= 0.98, "{share} of sequences of {capacity}");
        }
    }
}
