//! The `tokenizer.*` keys, handed on unchanged.

use super::header::GgufHeader;
use crate::error::Result;
use crate::load::metadata::GgufTokenizerMetadata;

/// Reads every key of [`GgufTokenizerMetadata`]. `MODEL_CORRUPT` without model or tokens, or where a list's length differs from the tokens'.
pub(super) fn read_tokenizer(header: &GgufHeader) -> Result<GgufTokenizerMetadata> {
    let required =
        |key: &str| header.corrupt(format_args!("metadata key `{key}` is missing; the file carries no tokenizer"));
    let model = header.string("tokenizer.ggml.model")?.ok_or_else(|| required("tokenizer.ggml.model"))?;
    let tokens = header.strings("tokenizer.ggml.tokens")?.ok_or_else(|| required("tokenizer.ggml.tokens"))?;
    let scores = header.floats("tokenizer.ggml.scores")?;
    let token_types = header.signed_integers("tokenizer.ggml.token_type")?;
    let lengths = [
        ("tokenizer.ggml.scores", scores.as_ref().map(Vec::len)),
        ("tokenizer.ggml.token_type", token_types.as_ref().map(Vec::len)),
    ];
    for (key, length) in lengths {
        if let Some(length) = length.filter(|length| *length != tokens.len()) {
            return Err(header.corrupt(format_args!(
                "`{key}` has {length} entries, expected one for each of {} tokens",
                tokens.len()
            )));
        }
    }
    let id = |name: &str| token_id(header, name, tokens.len());
    Ok(GgufTokenizerMetadata {
        model,
        pre: header.string("tokenizer.ggml.pre")?,
        scores,
        token_types,
        merges: header.strings("tokenizer.ggml.merges")?,
        bos_token_id: id("bos")?,
        eos_token_id: id("eos")?,
        eot_token_id: id("eot")?,
        unknown_token_id: id("unknown")?,
        padding_token_id: id("padding")?,
        add_bos_token: header.boolean("tokenizer.ggml.add_bos_token")?,
        add_eos_token: header.boolean("tokenizer.ggml.add_eos_token")?,
        add_space_prefix: header.boolean("tokenizer.ggml.add_space_prefix")?,
        chat_template: header.string("tokenizer.chat_template")?,
        tokens,
    })
}

/// `tokenizer.ggml.<name>_token_id`, checked against the vocabulary.
pub(super) fn token_id(header: &GgufHeader, name: &str, vocabulary: usize) -> Result<Option<u32>> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    match header.unsigned(&key)? {
        None => Ok(None),
        Some(id) if id < vocabulary as u64 => Ok(Some(id as u32)),
        Some(id) => Err(header.corrupt(format_args!("`{key}` is {id}, outside the vocabulary of {vocabulary}"))),
    }
}
