//! sentencepiece's `tokenizer.model`, a protocol buffer: pieces with scores and kinds.
//!
//! Source: `sentencepiece_model.proto` of sentencepiece: `ModelProto` has pieces (1), `trainer_spec` (2) and `normalizer_spec` (3).

use std::path::Path;

use super::settings::Settings;
use super::vocabulary::{NORMAL, Special, Token, Vocabulary};
use crate::error::{EngineError, ErrorCode, Result};

/// `TrainerSpec.ModelType`.
const BPE: u64 = 2;

/// A field of a message.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
    Fixed64,
}

/// Reads the vocabulary.
///
/// Errors: `MODEL_UNSUPPORTED` for other models of sentencepiece than BPE, which llama.cpp does not compute for these architectures;
/// `MODEL_CORRUPT`, `IO`.
pub(super) fn read(folder: &Path, settings: &Settings) -> Result<Vocabulary> {
    let path = folder.join("tokenizer.model");
    let bytes = std::fs::read(&path).map_err(|cause| EngineError::io("read", &path, &cause))?;
    let failed = |code, what: &str| EngineError::new(code, format!("{}: {what}", path.display()));
    let mut vocabulary = parse(&bytes)
        .ok_or_else(|| failed(ErrorCode::ModelCorrupt, "not a complete model of sentencepiece"))?
        .ok_or_else(|| {
            let what = "a unigram model, which llama.cpp does not compute for this architecture; expected BPE: merge into safetensors";
            failed(ErrorCode::ModelUnsupported, what)
        })?;
    vocabulary.add(settings);
    Ok(vocabulary)
}

/// None: malformed. Some of none: no BPE.
fn parse(bytes: &[u8]) -> Option<Option<Vocabulary>> {
    let (mut tokens, mut is_bpe, mut add_space_prefix) = (Vec::new(), false, true);
    let mut ids = [Some(0), Some(1), Some(2), None];
    let mut rest = bytes;
    while let Some((number, field)) = next(&mut rest)? {
        match (number, field) {
            (1, Field::Bytes(piece)) => tokens.push(Some(token(piece)?)),
            (2, Field::Bytes(mut trainer)) => {
                while let Some((number, field)) = next(&mut trainer)? {
                    match (number, field) {
                        (3, Field::Number(kind)) => is_bpe = kind == BPE,
                        // A negative id is none; it has ten bytes of all ones.
                        (40..=43, Field::Number(id)) => ids[number as usize - 40] = u32::try_from(id).ok(),
                        _ => {}
                    }
                }
            }
            (3, Field::Bytes(mut normalizer)) => {
                while let Some((number, field)) = next(&mut normalizer)? {
                    if let (3, Field::Number(flag)) = (number, field) {
                        add_space_prefix = flag != 0;
                    }
                }
            }
            _ => {}
        }
    }
    let [unknown, bos, eos, padding] = ids.map(|id| id.filter(|id| (*id as usize) < tokens.len()));
    let special = Special { bos, eos, unknown, padding };
    let (add_space_prefix, merges, add_bos) = (Some(add_space_prefix), None, None);
    Some(is_bpe.then_some(Vocabulary {
        model: "llama",
        pre: "default",
        tokens,
        merges,
        add_space_prefix,
        add_bos,
        special,
    }))
}

fn token(mut piece: &[u8]) -> Option<Token> {
    let mut token = Token { text: String::new(), score: 0.0, kind: NORMAL };
    while let Some((number, field)) = next(&mut piece)? {
        match (number, field) {
            (1, Field::Bytes(text)) => token.text = std::str::from_utf8(text).ok()?.to_owned(),
            (2, Field::Fixed32(bits)) => token.score = f32::from_bits(bits),
            (3, Field::Number(kind)) => token.kind = i32::try_from(kind).ok().filter(|kind| (1..=6).contains(kind))?,
            _ => {}
        }
    }
    Some(token)
}

/// The next field and its number. None: malformed; some of none: the end.
fn next<'a>(bytes: &mut &'a [u8]) -> Option<Option<(u64, Field<'a>)>> {
    if bytes.is_empty() {
        return Some(None);
    }
    let tag = varint(bytes)?;
    let field = match tag & 7 {
        0 => Field::Number(varint(bytes)?),
        1 => {
            take(bytes, 8)?;
            Field::Fixed64
        }
        2 => {
            let len = usize::try_from(varint(bytes)?).ok()?;
            Field::Bytes(take(bytes, len)?)
        }
        5 => Field::Fixed32(u32::from_le_bytes(take(bytes, 4)?.try_into().ok()?)),
        _ => return None,
    };
    Some(Some((tag >> 3, field)))
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

/// Seven bits a byte, the lowest first.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 127).checked_shl(shift)?;
        if byte < 128 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pieces, a BPE trainer whose padding id is −1, a normalizer without a prefix; then what is cut.
    #[test]
    fn fields_are_read_and_cut_files_are_not() {
        let piece = |text: &str, score: f32, kind: u8| {
            let inner = [&[10, text.len() as u8], text.as_bytes(), &[21], &score.to_le_bytes(), &[24, kind]].concat();
            [&[10, inner.len() as u8], &inner[..]].concat()
        };
        let none = [&[0xd8, 2][..], &[0xff; 9], &[1]].concat();
        let trainer = [&[24, 2, 0xc0, 2, 1][..], &none].concat();
        let bytes =
            [&piece("▁a", -1.5, 1)[..], &piece("<unk>", 0.0, 2), &[18, trainer.len() as u8], &trainer, &[26, 2, 24, 0]]
                .concat();
        let found = parse(&bytes).unwrap().unwrap();
        assert_eq!(found.tokens[0], Some(Token { text: "▁a".to_owned(), score: -1.5, kind: 1 }));
        assert_eq!(
            (found.add_space_prefix, found.special.unknown, found.special.padding),
            (Some(false), Some(1), None)
        );
        for len in [1, 5, bytes.len() - 1] {
            assert!(parse(&bytes[..len]).is_none(), "{len}");
        }
        // A unigram model is the default.
        assert!(parse(&piece("a", 0.0, 1)).unwrap().is_none());
    }
}
