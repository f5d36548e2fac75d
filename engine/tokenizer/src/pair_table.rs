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

/// Open addressing in one array: a look-up reads one or two lines of memory.
pub struct PairTable {
    slots: Vec<Slot>,
    len: usize,
}

impl PairTable {
    pub fn new() -> Self {
        Self { slots: vec![FREE; 1024], len: 0 }
    }

    /// `Merge::NOTHING` where the pair makes nothing.
    pub fn get(&self, left: u32, right: u32) -> Merge {
        self.slots[self.find(left, right)].merge
    }

    pub fn contains(&self, left: u32, right: u32) -> bool {
        self.get(left, right) != Merge::NOTHING
    }

    /// A later merge of the same pair takes the place of the earlier one. Neither symbol may be `NONE`.
    pub fn insert(&mut self, left: u32, right: u32, merge: Merge) {
        if 2 * (self.len + 1) > self.slots.len() {
            let grown = vec![FREE; 2 * self.slots.len()];
            for slot in std::mem::replace(&mut self.slots, grown) {
                if slot.merge != Merge::NOTHING {
                    let place = self.find(slot.left, slot.right);
                    self.slots[place] = slot;
                }
            }
        }
        let place = self.find(left, right);
        if self.slots[place].merge == Merge::NOTHING {
            self.len += 1;
        }
        self.slots[place] = Slot { left, right, merge };
    }

    /// The pair's slot, or the free one where it belongs.
    fn find(&self, left: u32, right: u32) -> usize {
        let mask = self.slots.len() - 1;
        let key = (u64::from(left) << 32) | u64::from(right);
        let mut place = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & mask;
        loop {
            let slot = &self.slots[place];
            if slot.merge == Merge::NOTHING || (slot.left == left && slot.right == right) {
                return place;
            }
            place = (place + 1) & mask;
        }
    }
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
