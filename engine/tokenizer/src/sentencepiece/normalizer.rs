//! Text to the form that pieces are found in: rules, spaces as `▁`, the space in front. As sentencepiece's `Normalizer`.

use super::charsmap::Charsmap;
use super::piece_trie::PieceTrie;
use super::{Model, piece_type};
use crate::Unsupported;

const SPACE_SYMBOL: char = '\u{2581}';

/// One bit for each character.
struct CharacterSet(Vec<u64>);

impl CharacterSet {
    fn of(matches: impl Fn(char) -> bool) -> Self {
        let mut bits = vec![0; (char::MAX as usize + 1) / 64];
        for character in ('\0'..=char::MAX).filter(|character| matches(*character)) {
            bits[character as usize / 64] |= 1 << (character as usize % 64);
        }
        Self(bits)
    }

    fn contains(&self, character: char) -> bool {
        self.0[character as usize / 64] >> (character as usize % 64) & 1 != 0
    }
}

/// What a model says of its normalization.
pub struct Normalizer {
    charsmap: Option<Charsmap>,
    /// Pieces that no rule changes.
    user_defined: Option<PieceTrie>,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
    /// What a rule, a user-defined piece or a space may begin with; other characters stay as they are.
    special: CharacterSet,
}

impl Normalizer {
    /// Errors where the charsmap is cut short.
    pub fn new(model: &Model) -> Result<Self, Unsupported> {
        let charsmap = (!model.charsmap.is_empty()).then(|| Charsmap::new(&model.charsmap)).transpose()?;
        // Without rules and with all spaces kept a piece reads as the rest does.
        let guards = charsmap.is_some() || model.remove_extra_whitespaces;
        let guarded = || model.pieces_of(piece_type::USER_DEFINED).filter(|_| guards);
        let firsts: std::collections::HashSet<char> = guarded().filter_map(|(piece, _)| piece.chars().next()).collect();
        let special = CharacterSet::of(|character| {
            let begins = charsmap.as_ref().is_some_and(|charsmap| charsmap.begins(character));
            character == ' ' || begins || firsts.contains(&character)
        });
        Ok(Self {
            charsmap,
            user_defined: guarded().next().is_some().then(|| PieceTrie::new(guarded())),
            add_dummy_prefix: model.add_dummy_prefix,
            remove_extra_whitespaces: model.remove_extra_whitespaces,
            escape_whitespaces: model.escape_whitespaces,
            special,
        })
    }

    /// Writes the normalized text over `normalized`; empty where nothing is left.
    ///
    /// `continues`: the text stands behind other text: no space is put in front, and those it starts with are kept.
    pub fn normalize(&self, text: &str, continues: bool, normalized: &mut String) {
        normalized.clear();
        let strips = self.remove_extra_whitespaces && !continues;
        let mut rest = text;
        if strips {
            while let (" ", behind) = self.step(rest) {
                rest = behind;
            }
        }
        if rest.is_empty() {
            return;
        }
        let space = if self.escape_whitespaces { SPACE_SYMBOL } else { ' ' };
        if self.add_dummy_prefix && !continues {
            normalized.push(space);
        }
        let mut space_before = strips;
        while !rest.is_empty() {
            let plain = rest.find(|character| self.special.contains(character)).unwrap_or(rest.len());
            if plain > 0 {
                normalized.push_str(&rest[..plain]);
                rest = &rest[plain..];
                space_before = false;
                continue;
            }
            let (step, behind) = self.step(rest);
            rest = behind;
            let added = if space_before { step.trim_start_matches(' ') } else { step };
            if added.is_empty() {
                continue;
            }
            if self.escape_whitespaces {
                normalized
                    .extend(added.chars().map(|character| if character == ' ' { SPACE_SYMBOL } else { character }));
            } else {
                normalized.push_str(added);
            }
            space_before = self.remove_extra_whitespaces && added.ends_with(' ');
        }
        if self.remove_extra_whitespaces {
            normalized.truncate(normalized.trim_end_matches(space).len());
        }
    }

    /// What the text begins with, normalized, and what is behind it.
    fn step<'a>(&'a self, text: &'a str) -> (&'a str, &'a str) {
        if let Some((_, end)) = self.user_defined.as_ref().and_then(|trie| trie.longest(text)) {
            return text.split_at(end);
        }
        if let Some((replacement, end)) = self.charsmap.as_ref().and_then(|charsmap| charsmap.longest(text)) {
            return (replacement, &text[end..]);
        }
        text.split_at(text.chars().next().map_or(0, char::len_utf8))
    }
}
