//! A BPE model's pieces as merges. A symbol is a piece's id, or a character without a piece (`UNKNOWN_BASE` and the code point).

use std::collections::HashMap;

use super::{Model, piece_type};
use crate::character_table::CharacterTable;
use crate::pair_table::{Merge, NONE, PairTable};

/// Above every id.
pub const UNKNOWN_BASE: u32 = 1 << 30;

/// The merges of a model.
pub struct BpeVocabulary {
    /// The piece that two symbols make; the rank is the place of its score among all scores, best first, and equal scores have one rank.
    pub merges: PairTable,
    /// Pairs of characters that stand side by side where two symbols of a merge meet; all others may be cut apart.
    pub joints: PairTable,
    characters: CharacterTable,
}

impl BpeVocabulary {
    pub fn new(model: &Model) -> Self {
        let mut characters = CharacterTable::new();
        let mut ids = HashMap::new();
        for ((piece, kind), id) in model.pieces.iter().zip(&model.types).zip(0..) {
            // Whether text can become this piece.
            if !matches!(*kind, piece_type::NORMAL | piece_type::USER_DEFINED | piece_type::UNUSED) {
                continue;
            }
            ids.insert(piece.as_str(), id);
            if let Some(character) = only_character(piece) {
                characters.insert(character, id);
            }
        }
        let mut vocabulary = Self { merges: PairTable::new(), joints: PairTable::new(), characters };
        let ranks = ranks(&model.scores);
        for (piece, id) in &ids {
            vocabulary.add_merges(piece, Merge { rank: ranks[*id as usize], symbol: *id }, &ids);
        }
        vocabulary
    }

    /// The symbol of a character.
    pub fn character(&self, character: char) -> u32 {
        match self.characters.get(character) {
            NONE => UNKNOWN_BASE + character as u32,
            id => id,
        }
    }

    /// Every way to make a piece of two symbols.
    fn add_merges(&mut self, piece: &str, merge: Merge, ids: &HashMap<&str, u32>) {
        let symbol = |text: &str| match ids.get(text) {
            Some(id) => Some(*id),
            None => only_character(text).map(|character| UNKNOWN_BASE + character as u32),
        };
        let neighbours = piece.char_indices().skip(1).zip(piece.chars());
        for ((cut, after), before) in neighbours {
            if let (Some(left), Some(right)) = (symbol(&piece[..cut]), symbol(&piece[cut..])) {
                self.merges.insert(left, right, merge);
                let (before, after) = (self.character(before), self.character(after));
                self.joints.insert(before, after, Merge { rank: 0, symbol: 0 });
            }
        }
    }
}

fn only_character(text: &str) -> Option<char> {
    let mut characters = text.chars();
    characters.next().filter(|_| characters.next().is_none())
}

fn ranks(scores: &[f32]) -> Vec<u32> {
    let mut sorted = scores.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    // Equality, not order: 0 and -0 are one score.
    sorted.dedup();
    let rank = |score: &f32| sorted.partition_point(|other| other > score) as u32;
    scores.iter().map(rank).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_scores_have_one_rank() {
        assert_eq!(ranks(&[-1.0, 0.0, 2.5, -0.0, -1.0, -7.0]), [2, 1, 0, 1, 2, 3]);
    }

    #[test]
    fn pieces_are_made_of_every_pair_of_symbols() {
        let pieces = ["a", "b", "ab", "aba", "ba"].map(str::to_owned).to_vec();
        let scores = vec![0.0, 0.0, -1.0, -2.0, -3.0];
        let model = Model { pieces, scores, types: vec![1; 5], ..Model::default() };
        let vocabulary = BpeVocabulary::new(&model);
        assert_eq!(vocabulary.merges.get(0, 1), Merge { rank: 1, symbol: 2 });
        assert_eq!(vocabulary.merges.get(2, 0), Merge { rank: 2, symbol: 3 });
        assert_eq!(vocabulary.merges.get(0, 4), Merge { rank: 2, symbol: 3 });
        assert!(!vocabulary.merges.contains(1, 1));
        assert_eq!(vocabulary.character('x'), UNKNOWN_BASE + 'x' as u32);
    }
}
