//! Byte-pair encoding proper: of all neighbours that make a symbol those of the lowest rank are joined first, of equal ranks the leftmost.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::pair_table::{Merge, NONE, PairTable};

/// Scratch memory of merging.
#[derive(Default)]
pub struct Merger {
    /// Rank in the upper half, place of the left symbol in the lower one.
    queue: BinaryHeap<Reverse<u64>>,
    next: Vec<u32>,
    previous: Vec<u32>,
    /// What a symbol makes with its right neighbour. An entry of the queue counts while it names the rank of that.
    joined: Vec<Merge>,
}

impl Merger {
    /// Merges a stretch of symbols in place. `about_to` is told of each pair that stood side by side and makes something, in the order of finding.
    pub fn merge(&mut self, symbols: &mut Vec<u32>, pairs: &PairTable, mut about_to: impl FnMut(u32, u32, u32)) {
        // Places are the lower half of a queue's entry.
        let length = u32::try_from(symbols.len()).expect("a text is shorter than 4 GiB");
        self.queue.clear();
        self.next.clear();
        self.next.extend(1..=length);
        self.previous.clear();
        self.previous.extend((0..length).map(|place| place.wrapping_sub(1)));
        self.joined.clear();
        self.joined.resize(symbols.len(), Merge::NOTHING);
        for left in 0..length.saturating_sub(1) {
            self.consider(left, symbols, pairs, &mut about_to);
        }
        while let Some(Reverse(entry)) = self.queue.pop() {
            let left = entry as u32;
            let Merge { rank, symbol } = self.joined[left as usize];
            if symbol == NONE || u64::from(rank) != entry >> 32 {
                continue;
            }
            let right = self.next[left as usize];
            symbols[left as usize] = symbol;
            symbols[right as usize] = NONE;
            self.joined[right as usize] = Merge::NOTHING;
            let behind = self.next[right as usize];
            self.next[left as usize] = behind;
            if behind < length {
                self.previous[behind as usize] = left;
            }
            let front = self.previous[left as usize];
            if front != NONE {
                self.consider(front, symbols, pairs, &mut about_to);
            }
            self.consider(left, symbols, pairs, &mut about_to);
        }
        symbols.retain(|symbol| *symbol != NONE);
    }

    fn consider(&mut self, left: u32, symbols: &[u32], pairs: &PairTable, about_to: &mut impl FnMut(u32, u32, u32)) {
        let right = self.next[left as usize] as usize;
        let left_symbol = symbols[left as usize];
        let merge = symbols.get(right).map_or(Merge::NOTHING, |right| pairs.get(left_symbol, *right));
        self.joined[left as usize] = merge;
        if merge != Merge::NOTHING {
            self.queue.push(Reverse((u64::from(merge.rank) << 32) | u64::from(left)));
            about_to(left_symbol, symbols[right], merge.symbol);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, word for word.
    fn merge_slowly(mut symbols: Vec<u32>, pairs: &PairTable) -> Vec<u32> {
        loop {
            let candidates = symbols.windows(2).enumerate().map(|(place, pair)| (pairs.get(pair[0], pair[1]), place));
            let best = candidates
                .filter(|(merge, _)| *merge != Merge::NOTHING)
                .min_by_key(|(merge, place)| (merge.rank, *place));
            let Some((merge, place)) = best else { return symbols };
            symbols.splice(place..place + 2, [merge.symbol]);
        }
    }

    #[test]
    fn merges_as_the_definition_says() {
        let mut state = 7_u32;
        let mut random = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % below
        };
        let mut merger = Merger::default();
        for _ in 0..300 {
            let mut pairs = PairTable::new();
            // Equal ranks on purpose: the leftmost counts.
            for symbol in 4..40 {
                let (left, right) = (random(symbol), random(symbol));
                pairs.insert(left, right, Merge { rank: random(12), symbol });
            }
            let text: Vec<u32> = (0..random(40)).map(|_| random(4)).collect();
            let mut merged = text.clone();
            merger.merge(&mut merged, &pairs, |_, _, _| {});
            assert_eq!(merged, merge_slowly(text.clone(), &pairs), "{text:?}");
        }
    }
}
