//! Normalized text to symbols: of all pairs that make a piece the one with the best score first, of equal scores the leftmost. User-defined
//! pieces are found before and take no part.
//!
//! A text is cut wherever no merge can join two characters, which changes no id: time stays near linear, and words that come again are
//! remembered. A model with `UNUSED` pieces is the exception: sentencepiece splits such a piece as it was last about to be made anywhere in
//! the text.

use std::collections::{HashMap, HashSet};

use super::piece_trie::PieceTrie;
use super::vocabulary::{BpeVocabulary, UNKNOWN_BASE};
use super::{Model, piece_type};
use crate::merger::Merger;
use crate::word_cache::WordCache;

/// Marks user-defined pieces, so that the table of merges does not know them: above ids, below `UNKNOWN_BASE`.
const FROZEN_BASE: u32 = 1 << 29;
/// Splits of splits of unused pieces; deeper ones stay whole.
const MAX_SPLIT_DEPTH: usize = 100;

/// A piece of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    Piece(u32),
    /// A character that no piece expresses.
    Unknown(char),
}

pub struct BpeSegmenter {
    vocabulary: BpeVocabulary,
    user_defined: Option<PieceTrie>,
    unused: HashSet<u32>,
    /// First characters of unused pieces, by id.
    unused_firsts: HashMap<u32, char>,
    merger: Merger,
    cache: WordCache,
    stretch: Vec<u32>,
    /// How an unused piece was last about to be made.
    splits: HashMap<u32, (u32, u32)>,
}

impl BpeSegmenter {
    pub fn new(model: &Model) -> Self {
        let user_defined = || model.pieces_of(piece_type::USER_DEFINED);
        let unused = || model.pieces_of(piece_type::UNUSED);
        Self {
            vocabulary: BpeVocabulary::new(model),
            user_defined: user_defined().next().is_some().then(|| PieceTrie::new(user_defined())),
            unused: unused().map(|(_, id)| id).collect(),
            unused_firsts: unused().filter_map(|(piece, id)| Some((id, piece.chars().next()?))).collect(),
            merger: Merger::default(),
            cache: WordCache::new(),
            stretch: Vec::new(),
            splits: HashMap::new(),
        }
    }

    /// Gives the pieces of a text, from left to right.
    pub fn segment(&mut self, normalized: &str, mut sink: impl FnMut(Segment)) {
        let is_whole = !self.unused.is_empty();
        self.splits.clear();
        let (mut start, mut at) = (0, 0);
        let mut before = 0;
        while let Some(character) = normalized[at..].chars().next() {
            let piece = self.user_defined.as_ref().and_then(|trie| trie.longest(&normalized[at..]));
            let (symbol, length) = match piece {
                Some((id, length)) => (FROZEN_BASE + id, length),
                None => (self.vocabulary.character(character), character.len_utf8()),
            };
            if at > start && !is_whole && !self.vocabulary.joints.contains(before, symbol) {
                self.flush(&normalized[start..at], &mut sink);
                start = at;
            }
            self.stretch.push(symbol);
            before = symbol;
            at += length;
        }
        if start < normalized.len() {
            self.flush(&normalized[start..], &mut sink);
        }
    }

    /// Merges the stretch at hand and hands it on.
    fn flush(&mut self, text: &str, sink: &mut impl FnMut(Segment)) {
        let mut stretch = std::mem::take(&mut self.stretch);
        let is_cached = stretch.len() > 1 && self.unused.is_empty();
        match self.cache.get(text.as_bytes()).filter(|_| is_cached) {
            Some(known) => {
                for symbol in known {
                    self.emit(*symbol, sink, 0);
                }
            }
            None => {
                self.merge(&mut stretch);
                if is_cached {
                    self.cache.insert(text.as_bytes(), &stretch);
                }
                for symbol in &stretch {
                    self.emit(*symbol, sink, 0);
                }
            }
        }
        stretch.clear();
        self.stretch = stretch;
    }

    fn merge(&mut self, stretch: &mut Vec<u32>) {
        if stretch.len() < 2 {
            return;
        }
        let Self { merger, vocabulary, unused, splits, .. } = self;
        merger.merge(stretch, &vocabulary.merges, |left, right, piece| {
            if unused.contains(&piece) {
                splits.insert(piece, (left, right));
            }
        });
    }

    fn emit(&self, symbol: u32, sink: &mut impl FnMut(Segment), depth: usize) {
        if symbol >= UNKNOWN_BASE {
            sink(Segment::Unknown(char::from_u32(symbol - UNKNOWN_BASE).expect("a symbol made of a character")));
        } else if symbol >= FROZEN_BASE {
            sink(Segment::Piece(symbol - FROZEN_BASE));
        } else if depth > MAX_SPLIT_DEPTH || !self.unused.contains(&symbol) {
            sink(Segment::Piece(symbol));
        } else if let Some((left, right)) = self.splits.get(&symbol) {
            self.emit(*left, sink, depth + 1);
            self.emit(*right, sink, depth + 1);
        } else {
            // A single character.
            sink(Segment::Unknown(self.unused_firsts[&symbol]));
        }
    }
}
