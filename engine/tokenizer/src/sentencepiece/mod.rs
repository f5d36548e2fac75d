//! Sentencepiece's BPE: the encoder of a `tokenizer.model` and of GGUF files of the model `llama`.

mod bpe;
mod charsmap;
mod encoder;
mod normalizer;
mod piece_trie;
mod vocabulary;

pub use encoder::SentencePieceEncoder;

/// `ModelProto.SentencePiece.Type`.
pub mod piece_type {
    pub const NORMAL: u8 = 1;
    pub const USER_DEFINED: u8 = 4;
    pub const UNUSED: u8 = 5;
    pub const BYTE: u8 = 6;
}

/// What decides ids: `sentencepiece_model.proto`. Pieces that text must not produce have the type of control pieces.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Texts by id; none is empty.
    pub pieces: Vec<String>,
    /// By id.
    pub scores: Vec<f32>,
    /// Values of [`piece_type`], by id.
    pub types: Vec<u8>,
    /// A character without a piece becomes its UTF-8 bytes; otherwise `unk_id`.
    pub byte_fallback: bool,
    pub unk_id: Option<u32>,
    /// `precompiled_charsmap`; empty for none.
    pub charsmap: Vec<u8>,
    pub add_dummy_prefix: bool,
    pub remove_extra_whitespaces: bool,
    pub escape_whitespaces: bool,
}

impl Model {
    fn pieces_of(&self, kind: u8) -> impl Iterator<Item = (&str, u32)> {
        let pieces = self.pieces.iter().zip(&self.types).zip(0..);
        pieces.filter(move |((_, found), _)| **found == kind).map(|((piece, _), id)| (piece.as_str(), id))
    }
}
