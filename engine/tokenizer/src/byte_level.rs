//! Byte-level BPE: a text is cut into words by patterns, and the bytes of each word are merged. Tokens write bytes as GPT-2's characters.

use std::collections::HashMap;

use crate::Unsupported;
use crate::merger::Merger;
use crate::pair_table::NONE;
use crate::pre_tokenizer::PreTokenizer;
use crate::symbols::{Symbols, Vocabulary};
use crate::word_cache::WordCache;

/// GPT-2's printable stand-ins for the 256 bytes.
fn byte_characters() -> [char; 256] {
    let mut next = 256;
    std::array::from_fn(|byte| {
        let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if printable { byte as u32 } else { next };
        next += u32::from(!printable);
        char::from_u32(code).expect("below 512")
    })
}

/// The encoder of GPT-2 and those after it: Llama 3, Qwen, SmolLM2.
pub struct ByteLevelEncoder {
    symbols: Symbols,
    byte_symbols: [u32; 256],
    /// Ids by word, where a word that is a whole token is taken without merging.
    whole: Option<HashMap<Box<[u8]>, u32>>,
    pre_tokenizer: PreTokenizer,
    merger: Merger,
    cache: WordCache,
    word: Vec<u32>,
}

impl ByteLevelEncoder {
    /// `ignore_merges`: a word that is a whole token is that token. A byte without a token adds nothing.
    ///
    /// Errors where a merge makes a text that is no token.
    pub fn new(vocabulary: Vocabulary, ignore_merges: bool, pre_tokenizer: PreTokenizer) -> Result<Self, Unsupported> {
        let characters = byte_characters();
        let mut symbols = Symbols::new(vocabulary, characters.iter().map(char::to_string))?;
        let byte_symbols = std::array::from_fn(|byte| symbols.symbol(&characters[byte].to_string()));
        let bytes: HashMap<char, u8> = characters.into_iter().zip(0..=255).collect();
        let whole = ignore_merges.then(|| {
            let known = |(text, id): (&str, u32)| {
                let word: Option<Vec<u8>> = text.chars().map(|character| bytes.get(&character).copied()).collect();
                word.map(|word| (word.into_boxed_slice(), id))
            };
            symbols.tokens().filter_map(known).collect()
        });
        symbols.forget_texts();
        let (merger, cache) = (Merger::default(), WordCache::new());
        Ok(Self { symbols, byte_symbols, whole, pre_tokenizer, merger, cache, word: Vec::new() })
    }

    /// Appends the ids of a text.
    pub fn encode(&mut self, text: &str, ids: &mut Vec<u32>) {
        let Self { symbols, byte_symbols, whole, pre_tokenizer, merger, cache, word } = self;
        pre_tokenizer.split(text, |piece| {
            let bytes = piece.as_bytes();
            if let Some(known) = cache.get(bytes) {
                ids.extend_from_slice(known);
                return;
            }
            let start = ids.len();
            if let Some(id) = whole.as_ref().and_then(|whole| whole.get(bytes)) {
                ids.push(*id);
            } else {
                word.clear();
                word.extend(bytes.iter().map(|byte| byte_symbols[usize::from(*byte)]));
                merger.merge(word, &symbols.pairs, |_, _, _| {});
                ids.extend(word.iter().map(|symbol| symbols.ids[*symbol as usize]).filter(|id| *id != NONE));
            }
            cache.insert(bytes, &ids[start..]);
        });
    }
}
