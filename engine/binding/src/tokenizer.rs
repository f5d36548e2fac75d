//! Encoders of ordinary text. They answer at once, on the caller's thread: worker threads encode data sets with them.

use luthier_tokenizer::sentencepiece::{Model, SentencePieceEncoder};
use luthier_tokenizer::{ByteLevelEncoder, CharacterEncoder, PreTokenizer, SplitPattern, Unsupported, Vocabulary};
use napi::bindgen_prelude::{Float32Array, Uint8Array, Uint32Array, Uint32ArraySlice};
use napi_derive::napi;

fn refused(problem: Unsupported) -> napi::Error {
    napi::Error::from_reason(problem.0)
}

/// Ids of one text after another, in memory of this side that is used again.
#[derive(Default)]
struct Ids(Vec<u32>);

impl Ids {
    /// Lets `encode` append to an empty list, writes that into `room` where all of it fits, and returns how many ids there are.
    fn write(&mut self, room: &mut Uint32ArraySlice<'_>, encode: impl FnOnce(&mut Vec<u32>)) -> u32 {
        self.0.clear();
        encode(&mut self.0);
        // SAFETY: the caller's thread alone knows the array, and it waits for this call.
        if let Some(room) = unsafe { room.as_mut() }.get_mut(..self.0.len()) {
            room.copy_from_slice(&self.0);
        }
        let count = self.0.len() as u32;
        self.0.shrink_to(KEPT_IDS);
        count
    }
}

/// Ids that an encoder keeps room for: more are rare.
const KEPT_IDS: usize = 1 << 16;

/// Tokens and their ids, and the two sides of every merge.
#[napi(object, object_to_js = false)]
pub struct NativeVocabulary {
    pub tokens: Vec<String>,
    pub ids: Uint32Array,
    pub merge_left: Vec<String>,
    pub merge_right: Vec<String>,
}

impl From<NativeVocabulary> for Vocabulary {
    fn from(NativeVocabulary { tokens, ids, merge_left, merge_right }: NativeVocabulary) -> Self {
        Self { tokens, ids: ids.to_vec(), merge_left, merge_right }
    }
}

/// See [`SplitPattern`].
#[napi(object, object_to_js = false)]
pub struct NativeSplitPattern {
    pub head: String,
    pub space: Option<String>,
}

/// Byte-level BPE.
#[napi]
pub struct NativeByteLevelEncoder(ByteLevelEncoder, Ids);

#[napi]
impl NativeByteLevelEncoder {
    /// Throws where the definition is not supported.
    #[napi(constructor)]
    pub fn new(
        vocabulary: NativeVocabulary,
        ignore_merges: bool,
        patterns: Vec<NativeSplitPattern>,
    ) -> napi::Result<Self> {
        let pattern = |NativeSplitPattern { head, space }| SplitPattern { head, space };
        let patterns: Vec<_> = patterns.into_iter().map(pattern).collect();
        let pre_tokenizer = PreTokenizer::new(&patterns).map_err(refused)?;
        let encoder = ByteLevelEncoder::new(vocabulary.into(), ignore_merges, pre_tokenizer).map_err(refused)?;
        Ok(Self(encoder, Ids::default()))
    }

    /// How many ids the text has. They are in `ids` where that has room for all of them.
    #[napi]
    pub fn encode(&mut self, text: String, mut ids: Uint32ArraySlice) -> u32 {
        self.1.write(&mut ids, |list| self.0.encode(&text, list))
    }
}

/// BPE over characters, with bytes for those that have no token.
#[napi]
pub struct NativeCharacterEncoder(CharacterEncoder, Ids);

#[napi]
impl NativeCharacterEncoder {
    /// Throws where the definition is not supported.
    #[napi(constructor)]
    pub fn new(vocabulary: NativeVocabulary) -> napi::Result<Self> {
        Ok(Self(CharacterEncoder::new(vocabulary.into()).map_err(refused)?, Ids::default()))
    }

    /// How many ids the text has. They are in `ids` where that has room for all of them.
    #[napi]
    pub fn encode(&mut self, text: String, mut ids: Uint32ArraySlice) -> u32 {
        self.1.write(&mut ids, |list| self.0.encode(&text, list))
    }
}

/// See [`Model`].
#[napi(object, object_to_js = false)]
pub struct NativeSentencePieceModel {
    pub pieces: Vec<String>,
    pub scores: Float32Array,
    pub types: Uint8Array,
    pub byte_fallback: bool,
    pub unk_id: Option<u32>,
    pub charsmap: Option<Uint8Array>,
    pub add_dummy_prefix: bool,
    pub remove_extra_whitespaces: bool,
    pub escape_whitespaces: bool,
}

/// Sentencepiece's BPE.
#[napi]
pub struct NativeSentencePieceEncoder(SentencePieceEncoder, Ids);

#[napi]
impl NativeSentencePieceEncoder {
    /// Throws where the model is not supported.
    #[napi(constructor)]
    pub fn new(model: NativeSentencePieceModel) -> napi::Result<Self> {
        let model = Model {
            pieces: model.pieces,
            scores: model.scores.to_vec(),
            types: model.types.to_vec(),
            byte_fallback: model.byte_fallback,
            unk_id: model.unk_id,
            charsmap: model.charsmap.map(|charsmap| charsmap.to_vec()).unwrap_or_default(),
            add_dummy_prefix: model.add_dummy_prefix,
            remove_extra_whitespaces: model.remove_extra_whitespaces,
            escape_whitespaces: model.escape_whitespaces,
        };
        Ok(Self(SentencePieceEncoder::new(&model).map_err(refused)?, Ids::default()))
    }

    /// How many ids the text has. They are in `ids` where that has room for all of them. `continues`: the text stands behind other text, and no
    /// space is put in front.
    #[napi]
    pub fn encode(&mut self, text: String, continues: bool, mut ids: Uint32ArraySlice) -> u32 {
        self.1.write(&mut ids, |list| self.0.encode(&text, continues, list))
    }
}
