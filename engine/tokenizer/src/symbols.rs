//! Vocabulary and merges of a `tokenizer.json` as symbols: a symbol is a token's index in the vocabulary, or above that a text without a token.

use std::collections::HashMap;

use crate::Unsupported;
use crate::pair_table::{Merge, NONE, PairTable};

/// Tokens as the file writes them and their ids, one for each; merges in their order, `left` and `right` one for each.
pub struct Vocabulary {
    pub tokens: Vec<String>,
    pub ids: Vec<u32>,
    pub merge_left: Vec<String>,
    pub merge_right: Vec<String>,
}

/// A vocabulary by numbers.
pub struct Symbols {
    /// By symbol; `NONE` for a text that is no token.
    pub ids: Vec<u32>,
    pub pairs: PairTable,
    numbers: HashMap<String, u32>,
    texts: usize,
}

impl Symbols {
    /// `base`: the texts that merging starts from, tokens or not.
    ///
    /// Errors where a merge makes a text that is no token, or lengths differ.
    pub fn new(vocabulary: Vocabulary, base: impl IntoIterator<Item = String>) -> Result<Self, Unsupported> {
        let Vocabulary { tokens, ids, merge_left, merge_right } = vocabulary;
        if tokens.len() != ids.len() || merge_left.len() != merge_right.len() {
            return Err(Unsupported("tokens and ids, or the sides of merges, are not of one number".to_owned()));
        }
        let texts = tokens.len();
        let numbers = tokens.into_iter().zip(0..).collect();
        let mut symbols = Self { ids, pairs: PairTable::new(), numbers, texts };
        for text in base {
            symbols.number_of(text);
        }
        for (rank, (left, right)) in (0..).zip(merge_left.iter().zip(&merge_right)) {
            // A side that is neither token nor base never comes to be.
            let (Some(&first), Some(&second)) = (symbols.numbers.get(left), symbols.numbers.get(right)) else {
                continue;
            };
            let made = format!("{left}{right}");
            let Some(&symbol) = symbols.numbers.get(&made).filter(|symbol| (**symbol as usize) < texts) else {
                return Err(Unsupported(format!(
                    "the merge of {left:?} and {right:?} makes no token of the vocabulary"
                )));
            };
            symbols.pairs.insert(first, second, Merge { rank, symbol });
        }
        Ok(symbols)
    }

    /// The id of a token; `NONE` for other texts.
    pub fn id(&self, text: &str) -> u32 {
        self.numbers.get(text).map_or(NONE, |symbol| self.ids[*symbol as usize])
    }

    /// The number of a text of the base.
    pub fn symbol(&self, text: &str) -> u32 {
        self.numbers.get(text).copied().unwrap_or(NONE)
    }

    /// Every token with its id.
    pub fn tokens(&self) -> impl Iterator<Item = (&str, u32)> {
        let tokens = self.numbers.iter().filter(|(_, symbol)| (**symbol as usize) < self.texts);
        tokens.map(|(text, symbol)| (text.as_str(), self.ids[*symbol as usize]))
    }

    /// Texts are needed while an encoder is made only.
    pub fn forget_texts(&mut self) {
        self.numbers = HashMap::new();
    }

    fn number_of(&mut self, text: String) {
        let next = self.ids.len() as u32;
        if *self.numbers.entry(text).or_insert(next) == next {
            self.ids.push(NONE);
        }
    }
}
