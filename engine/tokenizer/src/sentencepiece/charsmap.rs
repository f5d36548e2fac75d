//! `NormalizerSpec.precompiled_charsmap`: normalization rules as a double-array trie over UTF-8 bytes (Darts-clone's units).
//!
//! A unit's bits: 0-7 label, 8 whether a value hangs below, 9 and 10-30 the offset of the children (shifted by 8 where bit 9 is set); a value's
//! unit has bit 31 set, which no label matches.

use crate::Unsupported;

const LABEL_MASK: u32 = 0x8000_00ff;
const VALUE_MASK: u32 = 0x7fff_ffff;
const HAS_VALUE: u32 = 0x100;

/// The rules, and the NUL-terminated replacements that the trie's values point to.
pub struct Charsmap {
    units: Vec<u32>,
    texts: Vec<u8>,
}

fn offset(unit: u32) -> u32 {
    (unit >> 10) << ((unit & 0x200) >> 6)
}

impl Charsmap {
    /// Errors where the trie is longer than the blob. What its units point to is the reader's to check.
    pub fn new(blob: &[u8]) -> Result<Self, Unsupported> {
        let cut = || Unsupported(format!("a charsmap of {} bytes is cut short", blob.len()));
        let (length, rest) = blob.split_first_chunk::<4>().ok_or_else(cut)?;
        let (trie, texts) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(cut)?;
        let units = trie.chunks_exact(4).map(|unit| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]])).collect();
        Ok(Self { units, texts: texts.to_vec() })
    }

    /// What the longest rule at a text's beginning makes of it, and how many bytes it takes.
    pub fn longest(&self, text: &str) -> Option<(&str, usize)> {
        let mut base = offset(self.unit(0));
        let mut found = None;
        for (at, character) in text.char_indices() {
            let Some((unit, below)) = self.follow(base, character) else { break };
            base = below;
            if unit & HAS_VALUE != 0 {
                found = Some((self.unit(base) & VALUE_MASK, at + character.len_utf8()));
            }
        }
        found.map(|(value, end)| (self.replacement(value), end))
    }

    /// Whether some rule begins with this character.
    pub fn begins(&self, character: char) -> bool {
        self.follow(offset(self.unit(0)), character).is_some()
    }

    /// The unit behind a character's bytes, and the base of its children.
    fn follow(&self, mut base: u32, character: char) -> Option<(u32, u32)> {
        let mut unit = 0;
        for byte in character.encode_utf8(&mut [0; 4]).bytes() {
            let position = base ^ u32::from(byte);
            unit = self.unit(position);
            if byte == 0 || unit & LABEL_MASK != u32::from(byte) {
                return None;
            }
            base = position ^ offset(unit);
        }
        Some((unit, base))
    }

    fn unit(&self, position: u32) -> u32 {
        self.units.get(position as usize).copied().unwrap_or(0)
    }

    fn replacement(&self, value: u32) -> &str {
        let text = self.texts.get(value as usize..).unwrap_or_default();
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(0);
        std::str::from_utf8(&text[..end]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_blob_that_is_cut_short() {
        assert!(Charsmap::new(&[]).is_err());
        assert!(Charsmap::new(&[8, 0, 0, 0, 1, 2, 3]).is_err());
    }

    #[test]
    fn finds_nothing_where_units_lead_nowhere() {
        let mut blob = vec![4, 0, 0, 0];
        blob.extend(0xffff_ffff_u32.to_le_bytes());
        let charsmap = Charsmap::new(&blob).unwrap();
        assert_eq!(charsmap.longest("a\0b"), None);
    }
}
