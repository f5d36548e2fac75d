//! Runs of ordinary text to token ids, for data sets. The encoders of `src/tokenizer` are the reference: the same ids, id for id.
//!
//! Definitions come ready: files are read, control tokens found and vocabularies cleared of them in one place only, which is TypeScript.
//! An encoder keeps scratch memory and the words it met last, so that it serves one thread.

mod byte_level;
mod character_bpe;
mod character_table;
mod merger;
mod pair_table;
mod pre_tokenizer;
pub mod sentencepiece;
mod symbols;
mod word_cache;

pub use byte_level::ByteLevelEncoder;
pub use character_bpe::CharacterEncoder;
pub use pre_tokenizer::{PreTokenizer, SplitPattern};
pub use symbols::Vocabulary;

/// Why an encoder cannot be made of a definition: for people, without a full stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported(pub String);

impl std::fmt::Display for Unsupported {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Unsupported {}
