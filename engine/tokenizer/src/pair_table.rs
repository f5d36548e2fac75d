//! A map from pairs of symbols to what they make.

/// Stands for "nothing" wherever a symbol, an id or a place is expected.
pub const NONE: u32 = u32::MAX;

/// What a pair of symbols becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    /// Place among all merges: the lowest is done first.
    pub rank: u32,
    /// The symbol that is made; `NONE`: the pair makes nothing.
    pub symbol: u32,
}

impl Merge {
    pub const NOTHING: Self = Self { rank: NONE, symbol: NONE };
}

#[derive(Clone, Copy)]
struct Slot {
    left: u32,
    right: u32,
    merge: Merge,
}

const FREE: Slot = Slot { left: NONE, right: NONE, merge: Merge::NOTHING };

/// Bits of the filter for each slot.
const FILTER_BITS: usize = 4;
const WORD_BITS: usize = u64::BITS as usize;

/// Open addressing in one array. Most pairs that are asked for make nothing: a filter of one bit per hash, small enough for a core's own cache,
/// says so without a look at the slots.
pub struct PairTable {
    slots: Vec<Slot>,
    filter: Vec<u64>,
    len: usize,
}

impl PairTable {
    pub fn new() -> Self {
        Self::with_slots(1024)
    }

    /// `count`: a power of two.
    fn with_slots(count: usize) -> Self {
        Self { slots: vec![FREE; count], filter: vec![0; count * FILTER_BITS / WORD_BITS], len: 0 }
    }

    /// `Merge::NOTHING` where the pair makes nothing.
    pub fn get(&self, left: u32, right: u32) -> Merge {
        let hash = hash(left, right);
        let (word, bit) = self.filter_place(hash);
        if self.filter[word] & bit == 0 { Merge::NOTHING } else { self.slots[self.find(left, right, hash)].merge }
    }

    pub fn contains(&self, left: u32, right: u32) -> bool {
        self.get(left, right) != Merge::NOTHING
    }

    /// A later merge of the same pair takes the place of the earlier one. Neither symbol may be `NONE`.
    pub fn insert(&mut self, left: u32, right: u32, merge: Merge) {
        if 3 * (self.len + 1) > 2 * self.slots.len() {
            let mut grown = Self::with_slots(2 * self.slots.len());
            for slot in self.slots.iter().filter(|slot| slot.merge != Merge::NOTHING) {
                grown.put(*slot);
            }
            *self = grown;
        }
        self.put(Slot { left, right, merge });
    }

    fn put(&mut self, slot: Slot) {
        let hash = hash(slot.left, slot.right);
        let (word, bit) = self.filter_place(hash);
        self.filter[word] |= bit;
        let place = self.find(slot.left, slot.right, hash);
        self.len += usize::from(self.slots[place].merge == Merge::NOTHING);
        self.slots[place] = slot;
    }

    /// Word and bit of the filter; the slot is chosen by other bits of the hash.
    fn filter_place(&self, hash: u64) -> (usize, u64) {
        let place = (hash >> 8) as usize & (self.filter.len() * WORD_BITS - 1);
        (place / WORD_BITS, 1 << (place % WORD_BITS))
    }

    /// The pair's slot, or the free one where it belongs.
    fn find(&self, left: u32, right: u32, hash: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut place = (hash >> 36) as usize & mask;
        loop {
            let slot = &self.slots[place];
            if slot.merge == Merge::NOTHING || (slot.left == left && slot.right == right) {
                return place;
            }
            place = (place + 1) & mask;
        }
    }
}

fn hash(left: u32, right: u32) -> u64 {
    let key = (u64::from(left) << 32) | u64::from(right);
    let mixed = (key ^ (key >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_merge_of_every_pair_while_it_grows() {
        let mut table = PairTable::new();
        for round in 0..2 {
            for left in 0..100 {
                for right in 0..100 {
                    table.insert(left, right, Merge { rank: left + round, symbol: right });
                }
            }
        }
        assert_eq!(table.len, 10_000);
        for left in 0..100 {
            for right in 0..100 {
                assert_eq!(table.get(left, right), Merge { rank: left + 1, symbol: right });
            }
        }
        assert_eq!(table.get(7, 100), Merge::NOTHING);
        assert!(!table.contains(100, 7));
    }
}
