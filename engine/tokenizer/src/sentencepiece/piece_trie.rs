//! Pieces by their first characters.

use crate::character_table::CharacterTable;
use crate::pair_table::{Merge, NONE, PairTable};

const ROOT: u32 = 0;

/// The longest of some pieces at a place of a text.
pub struct PieceTrie {
    /// Children of the root, which every search begins with.
    first: CharacterTable,
    /// Node and character to node.
    edges: PairTable,
    /// The id of the piece that ends at a node; `NONE` where none does.
    ids: Vec<u32>,
}

impl PieceTrie {
    /// Of a piece that stands twice the last id counts.
    pub fn new<'a>(pieces: impl Iterator<Item = (&'a str, u32)>) -> Self {
        let mut trie = Self { first: CharacterTable::new(), edges: PairTable::new(), ids: vec![NONE] };
        for (piece, id) in pieces {
            let mut node = ROOT;
            for character in piece.chars() {
                node = match trie.step(node, character) {
                    NONE => trie.add(node, character),
                    child => child,
                };
            }
            if node != ROOT {
                trie.ids[node as usize] = id;
            }
        }
        trie
    }

    /// Id and length in bytes of the longest piece that the text begins with.
    pub fn longest(&self, text: &str) -> Option<(u32, usize)> {
        let mut node = ROOT;
        let mut found = None;
        for (at, character) in text.char_indices() {
            node = self.step(node, character);
            if node == NONE {
                break;
            }
            if self.ids[node as usize] != NONE {
                found = Some((self.ids[node as usize], at + character.len_utf8()));
            }
        }
        found
    }

    fn step(&self, node: u32, character: char) -> u32 {
        if node == ROOT { self.first.get(character) } else { self.edges.get(node, character as u32).symbol }
    }

    fn add(&mut self, node: u32, character: char) -> u32 {
        let child = self.ids.len() as u32;
        self.ids.push(NONE);
        if node == ROOT {
            self.first.insert(character, child);
        } else {
            self.edges.insert(node, character as u32, Merge { rank: 0, symbol: child });
        }
        child
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_longest_piece() {
        let trie = PieceTrie::new([("a", 1), ("ab", 2), ("abcd", 3), ("你好", 4), ("😀", 5), ("ab", 6)].into_iter());
        assert_eq!(trie.longest("abc"), Some((6, 2)));
        assert_eq!(trie.longest("abcde"), Some((3, 4)));
        assert_eq!(trie.longest("你好吗"), Some((4, 6)));
        assert_eq!(trie.longest("😀"), Some((5, 4)));
        assert_eq!((trie.longest("你"), trie.longest("ba"), trie.longest("")), (None, None, None));
    }
}
