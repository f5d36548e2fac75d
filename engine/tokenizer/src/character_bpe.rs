//! BPE over characters with bytes for those that have no token: sentencepiece vocabularies as a `tokenizer.json` writes them.

use std::collections::HashMap;

use crate::Unsupported;
use crate::character_table::CharacterTable;
use crate::merger::Merger;
use crate::pair_table::{Merge, NONE, PairTable};
use crate::symbols::{Symbols, Vocabulary};
use crate::word_cache::WordCache;

/// Symbols of characters that no merge and no token knows: this and the code point.
const UNKNOWN_BASE: u32 = 1 << 30;

/// Texts come normalized: spaces are `▁` already.
pub struct CharacterEncoder {
    symbols: Symbols,
    characters: CharacterTable,
    /// Characters by symbol that merges know and the vocabulary does not.
    without_token: HashMap<u32, char>,
    /// Ids of `<0x00>` to `<0xFF>`.
    bytes: [u32; 256],
    /// Pairs of characters that stand side by side where two symbols of a merge meet. A text is cut between all others, which changes no id.
    joints: PairTable,
    merger: Merger,
    cache: WordCache,
    word: Vec<u32>,
}

impl CharacterEncoder {
    /// Errors where a byte has no token, or a merge makes a text that is no token.
    pub fn new(vocabulary: Vocabulary) -> Result<Self, Unsupported> {
        let mut joints = PairTable::new();
        for (left, right) in vocabulary.merge_left.iter().zip(&vocabulary.merge_right) {
            if let (Some(before), Some(after)) = (left.chars().next_back(), right.chars().next()) {
                joints.insert(before as u32, after as u32, Merge { rank: 0, symbol: 0 });
            }
        }
        let sides = vocabulary.merge_left.iter().chain(&vocabulary.merge_right);
        let base: Vec<String> = sides.filter(|side| side.chars().nth(1).is_none()).cloned().collect();
        let mut symbols = Symbols::new(vocabulary, base.clone())?;
        let mut characters = CharacterTable::new();
        let mut without_token = HashMap::new();
        let tokens: Vec<String> = symbols.tokens().map(|(text, _)| text.to_owned()).collect();
        for text in tokens.iter().chain(&base) {
            let mut letters = text.chars();
            if let (Some(character), None) = (letters.next(), letters.next()) {
                let symbol = symbols.symbol(text);
                characters.insert(character, symbol);
                if symbols.ids[symbol as usize] == NONE {
                    without_token.insert(symbol, character);
                }
            }
        }
        let mut bytes = [NONE; 256];
        for (byte, id) in bytes.iter_mut().enumerate() {
            let text = format!("<0x{byte:02X}>");
            *id = symbols.id(&text);
            if *id == NONE {
                return Err(Unsupported(format!("the vocabulary has no token {text}")));
            }
        }
        symbols.forget_texts();
        let (merger, cache) = (Merger::default(), WordCache::new());
        Ok(Self { symbols, characters, without_token, bytes, joints, merger, cache, word: Vec::new() })
    }

    /// Appends the ids of a text.
    pub fn encode(&mut self, text: &str, ids: &mut Vec<u32>) {
        let mut start = 0;
        let mut before = None;
        for (at, character) in text.char_indices() {
            if before.is_some_and(|before| !self.joints.contains(before as u32, character as u32)) {
                self.encode_word(&text[start..at], ids);
                start = at;
            }
            before = Some(character);
        }
        self.encode_word(&text[start..], ids);
    }

    fn encode_word(&mut self, text: &str, ids: &mut Vec<u32>) {
        if let Some(known) = self.cache.get(text.as_bytes()) {
            ids.extend_from_slice(known);
            return;
        }
        let start = ids.len();
        self.word.clear();
        self.word.extend(text.chars().map(|character| match self.characters.get(character) {
            NONE => UNKNOWN_BASE + character as u32,
            symbol => symbol,
        }));
        self.merger.merge(&mut self.word, &self.symbols.pairs, |_, _, _| {});
        for symbol in &self.word {
            match self.symbols.ids.get(*symbol as usize) {
                Some(id) if *id != NONE => ids.push(*id),
                _ => {
                    let unknown = || char::from_u32(symbol - UNKNOWN_BASE).expect("a symbol made of a character");
                    let character = self.without_token.get(symbol).copied().unwrap_or_else(unknown);
                    let mut buffer = [0; 4];
                    let utf8 = character.encode_utf8(&mut buffer);
                    ids.extend(utf8.bytes().map(|byte| self.bytes[usize::from(byte)]));
                }
            }
        }
        self.cache.insert(text.as_bytes(), &ids[start..]);
    }
}
