//! A tokenizer as GGUF's `tokenizer.*` keys hold it.

use std::path::Path;

use super::settings::Settings;
use crate::config::ModelConfig;
use crate::error::{EngineError, ErrorCode, Result};
use crate::load::gguf::MetadataValue;

/// What a token is, by llama.cpp's numbers, which are sentencepiece's.
pub(super) const NORMAL: i32 = 1;
pub(super) const CONTROL: i32 = 3;
pub(super) const USER_DEFINED: i32 = 4;
pub(super) const UNUSED: i32 = 5;

/// Score of tokens that were added to sentencepiece's, and of ids without a token, as llama.cpp's converter writes them.
const ADDED_SCORE: f32 = -1000.0;
const UNUSED_SCORE: f32 = -10_000.0;

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub text: String,
    pub score: f32,
    pub kind: i32,
}

/// A tokenizer. Ids are places in `tokens`; ids without a token have none.
#[derive(Debug)]
pub(super) struct Vocabulary {
    /// `llama` (sentencepiece) or `gpt2` (byte-level BPE).
    pub model: &'static str,
    pub pre: &'static str,
    pub tokens: Vec<Option<Token>>,
    /// Of byte-level BPE, two pieces each with a space between them.
    pub merges: Option<Vec<String>>,
    /// Of sentencepiece.
    pub add_space_prefix: Option<bool>,
    /// Whether a text begins with BOS, where the settings do not say.
    pub add_bos: Option<bool>,
    /// Where the settings do not say.
    pub special: Special,
}

/// Ids of tokens with a meaning.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Special {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unknown: Option<u32>,
    pub padding: Option<u32>,
}

impl Vocabulary {
    /// Puts added tokens over what is there.
    pub fn add(&mut self, settings: &Settings) {
        for added in &settings.added {
            let id = added.id as usize;
            if id >= self.tokens.len() {
                self.tokens.resize(id + 1, None);
            }
            let kind = if added.special { CONTROL } else { USER_DEFINED };
            self.tokens[id] = Some(Token { text: added.content.clone(), score: ADDED_SCORE, kind });
        }
    }

    fn id(&self, text: &str) -> Option<u32> {
        let found = self.tokens.iter().position(|token| token.as_ref().is_some_and(|token| token.text == text));
        found.map(|id| id as u32)
    }

    /// The keys.
    ///
    /// Errors: `MODEL_CORRUPT` where there are more tokens than rows of the embedding table.
    pub fn metadata(
        self,
        base: &Path,
        settings: &Settings,
        config: &ModelConfig,
    ) -> Result<Vec<(String, MetadataValue)>> {
        let (found, rows) = (self.tokens.len(), config.vocab_size);
        if found > rows {
            let message =
                format!("{}: the tokenizer has {found} tokens, the embedding table {rows} rows", base.display());
            return Err(EngineError::new(ErrorCode::ModelCorrupt, message));
        }
        let mut metadata = Vec::new();
        let mut put = |key: &str, value| metadata.push((format!("tokenizer.{key}"), value));
        put("ggml.model", MetadataValue::text(self.model));
        put("ggml.pre", MetadataValue::text(self.pre));
        let of = |name: &str| settings.special_token(name).and_then(|text| self.id(text));
        let in_config = |ids: &[u32], at: usize| ids.get(at).copied();
        let eos = of("eos_token").or(in_config(&config.eos_token_ids, 0)).or(self.special.eos);
        let eot = config.eos_token_ids.iter().copied().find(|id| Some(*id) != eos);
        let ids = [
            ("bos", of("bos_token").or(config.bos_token_id).or(self.special.bos)),
            ("eos", eos),
            ("eot", eot),
            ("unknown", of("unk_token").or(self.special.unknown)),
            ("padding", of("pad_token").or(self.special.padding)),
        ];
        for (name, id) in ids {
            if let Some(id) = id {
                put(&format!("ggml.{name}_token_id"), MetadataValue::u32(id));
            }
        }
        let flags = [
            ("add_bos_token", settings.flag("add_bos_token").or(self.add_bos)),
            ("add_eos_token", settings.flag("add_eos_token")),
            ("add_space_prefix", self.add_space_prefix),
        ];
        for (name, flag) in flags {
            if let Some(flag) = flag {
                put(&format!("ggml.{name}"), MetadataValue::boolean(flag));
            }
        }
        if let Some(template) = &settings.chat_template {
            put("chat_template", MetadataValue::text(template));
        }
        let unused = |id: usize| Token { text: format!("[PAD{id}]"), score: UNUSED_SCORE, kind: UNUSED };
        let missing = std::iter::repeat_n(None, rows - found);
        let tokens: Vec<Token> = self
            .tokens
            .into_iter()
            .chain(missing)
            .enumerate()
            .map(|(id, token)| token.unwrap_or_else(|| unused(id)))
            .collect();
        put("ggml.tokens", MetadataValue::texts(tokens.iter().map(|token| token.text.as_str())));
        put("ggml.token_type", MetadataValue::i32s(tokens.iter().map(|token| token.kind)));
        match &self.merges {
            Some(merges) => put("ggml.merges", MetadataValue::texts(merges.iter().map(String::as_str))),
            None => put("ggml.scores", MetadataValue::f32s(tokens.iter().map(|token| token.score))),
        }
        Ok(metadata)
    }
}
