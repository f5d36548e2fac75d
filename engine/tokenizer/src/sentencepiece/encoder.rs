//! Text to ids, as sentencepiece's `Encode` with BPE.

use super::bpe::{BpeSegmenter, Segment};
use super::normalizer::Normalizer;
use super::{Model, piece_type};
use crate::Unsupported;

/// The encoder of a BPE model.
pub struct SentencePieceEncoder {
    normalizer: Normalizer,
    segmenter: BpeSegmenter,
    /// Ids by byte, where characters without a piece become bytes.
    bytes: Option<[u32; 256]>,
    unk_id: Option<u32>,
    normalized: String,
}

/// The byte of a piece such as `<0x0A>`.
fn byte_of(piece: &str) -> Option<u8> {
    u8::from_str_radix(piece.strip_prefix("<0x")?.strip_suffix('>').filter(|hex| hex.len() == 2)?, 16).ok()
}

impl SentencePieceEncoder {
    /// Errors where lists are not of one length, or the charsmap is cut short.
    pub fn new(model: &Model) -> Result<Self, Unsupported> {
        if model.pieces.len() != model.scores.len() || model.pieces.len() != model.types.len() {
            return Err(Unsupported("pieces, scores and types are not of one number".to_owned()));
        }
        let mut bytes = [0; 256];
        for (piece, id) in model.pieces_of(piece_type::BYTE) {
            bytes[usize::from(byte_of(piece).unwrap_or(0))] = id;
        }
        Ok(Self {
            normalizer: Normalizer::new(model)?,
            segmenter: BpeSegmenter::new(model),
            bytes: model.byte_fallback.then_some(bytes),
            unk_id: model.unk_id,
            normalized: String::new(),
        })
    }

    /// Appends the ids of a text. `continues`: the text stands behind other text, and no space is put in front.
    pub fn encode(&mut self, text: &str, continues: bool, ids: &mut Vec<u32>) {
        let Self { normalizer, segmenter, bytes, unk_id, normalized } = self;
        normalizer.normalize(text, continues, normalized);
        let start = ids.len();
        segmenter.segment(normalized, |segment| match (segment, &bytes, *unk_id) {
            (Segment::Piece(id), _, _) => ids.push(id),
            (Segment::Unknown(character), Some(bytes), _) => {
                ids.extend(character.encode_utf8(&mut [0; 4]).bytes().map(|byte| bytes[usize::from(byte)]));
            }
            // A run of unknown characters is one UNK.
            (Segment::Unknown(_), None, Some(unk)) if ids.len() == start || ids.last() != Some(&unk) => ids.push(unk),
            (Segment::Unknown(_), None, _) => {}
        });
    }
}
