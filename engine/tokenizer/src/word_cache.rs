//! What became of the words met last. Of a fixed size: a word takes the place of another one whose hash ends alike.

const SLOTS: usize = 1 << 15;
const MAX_BYTES: usize = 31;
const MAX_SYMBOLS: usize = 8;

#[derive(Clone, Copy)]
struct Slot {
    /// 0: the slot is free.
    bytes: u8,
    symbols: u8,
    word: [u8; MAX_BYTES],
    made: [u32; MAX_SYMBOLS],
}

/// About 2 MB.
pub struct WordCache(Vec<Slot>);

impl WordCache {
    pub fn new() -> Self {
        Self(vec![Slot { bytes: 0, symbols: 0, word: [0; MAX_BYTES], made: [0; MAX_SYMBOLS] }; SLOTS])
    }

    pub fn get(&self, word: &[u8]) -> Option<&[u32]> {
        let slot = &self.0[place(word)];
        let known = !word.is_empty() && &slot.word[..usize::from(slot.bytes)] == word;
        known.then(|| &slot.made[..usize::from(slot.symbols)])
    }

    /// Long words, and those that become many symbols, are not kept.
    pub fn insert(&mut self, word: &[u8], made: &[u32]) {
        if word.len() > MAX_BYTES || made.len() > MAX_SYMBOLS {
            return;
        }
        let slot = &mut self.0[place(word)];
        slot.bytes = word.len() as u8;
        slot.symbols = made.len() as u8;
        slot.word[..word.len()].copy_from_slice(word);
        slot.made[..made.len()].copy_from_slice(made);
    }
}

/// FNV-1a over words of eight bytes, mixed once more since the low bits choose the slot.
fn place(word: &[u8]) -> usize {
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ word.len() as u64;
    for chunk in word.chunks(8) {
        let mut bytes = [0; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        hash = (hash ^ u64::from_le_bytes(bytes)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 32;
    }
    hash as usize & (SLOTS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_back_what_was_put_in_and_nothing_else() {
        let mut cache = WordCache::new();
        assert_eq!(cache.get(b"word"), None);
        assert_eq!(cache.get(b""), None);
        for number in 0..100_000_u32 {
            cache.insert(number.to_string().as_bytes(), &[number, number + 1]);
            assert_eq!(cache.get(number.to_string().as_bytes()), Some(&[number, number + 1][..]));
        }
        let kept = (0..100_000_u32).filter(|number| match cache.get(number.to_string().as_bytes()) {
            Some(made) => made == [*number, number + 1],
            None => false,
        });
        let kept = kept.count();
        assert!((20_000..=SLOTS).contains(&kept), "{kept}");
    }

    #[test]
    fn leaves_out_what_does_not_fit() {
        let mut cache = WordCache::new();
        cache.insert(&[1; MAX_BYTES + 1], &[1]);
        cache.insert(&[2], &[1; MAX_SYMBOLS + 1]);
        assert_eq!((cache.get(&[1; MAX_BYTES + 1]), cache.get(&[2])), (None, None));
        cache.insert(&[3], &[]);
        assert_eq!(cache.get(&[3]), Some(&[][..]));
    }
}
