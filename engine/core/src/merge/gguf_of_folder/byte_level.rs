//! Byte-level BPE of a `tokenizer.json`: vocabulary, merges, and the name that llama.cpp has for its pre-tokenizer.

use std::path::Path;

use serde_json::{Map, Value};

use super::settings::Settings;
use super::vocabulary::{NORMAL, Special, Token, Vocabulary};
use crate::error::{EngineError, ErrorCode, Result};

/// Patterns of pre-tokenizers, and llama.cpp's names: of models that take a piece whole where it is a token, and of others. Only digits differ.
const PATTERNS: [(&str, &str, Option<&str>); 2] =
    [(r"\p{N}{1,3}", "dbrx", Some("llama-bpe")), (r"\p{N}", "qwen2", None)];

/// The pattern that GPT-4 began with, around its digits.
fn pattern(digits: &str) -> String {
    format!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
}

/// Reads the vocabulary.
///
/// Errors: `MODEL_UNSUPPORTED` where there is no `tokenizer.json`, or it is no byte-level BPE with a pre-tokenizer that is known here;
/// `MODEL_CORRUPT`.
pub(super) fn read(folder: &Path, settings: &Settings) -> Result<Vocabulary> {
    let failed = |code, what: String| EngineError::new(code, format!("{}: {what}", folder.display()));
    let unsupported = |what: &str| {
        failed(
            ErrorCode::ModelUnsupported,
            format!(
                "{what}; expected sentencepiece's tokenizer.model, or a tokenizer.json of byte-level BPE as Llama 3, Qwen2, SmolLM2 and GPT-2 have it: merge into safetensors"
            ),
        )
    };
    let json = settings.tokenizer.as_ref().ok_or_else(|| unsupported("no tokenizer is there"))?;
    let model = json.get("model").filter(|model| model.get("type").is_none_or(|kind| kind == "BPE"));
    let model = model.ok_or_else(|| unsupported("tokenizer.json is no BPE"))?;
    let ignore_merges = model.get("ignore_merges").and_then(Value::as_bool).unwrap_or(false);
    let pre = pre_tokenizer(json, ignore_merges)
        .ok_or_else(|| unsupported("tokenizer.json has a pre-tokenizer that is not known here"))?;
    let corrupt =
        |part: &str| failed(ErrorCode::ModelCorrupt, format!("tokenizer.json has a `{part}` that cannot be read"));
    let (tokens, merges) =
        (tokens(model).ok_or_else(|| corrupt("vocab"))?, merges(model).ok_or_else(|| corrupt("merges"))?);
    let mut vocabulary = Vocabulary {
        model: "gpt2",
        pre,
        tokens,
        merges: Some(merges),
        add_space_prefix: None,
        add_bos: Some(begins_with_special(json)),
        special: Special::default(),
    };
    vocabulary.add(settings);
    Ok(vocabulary)
}

fn tokens(model: &Value) -> Option<Vec<Option<Token>>> {
    let vocab = model.get("vocab")?.as_object()?;
    let mut tokens = Vec::new();
    for (text, id) in vocab {
        let id = usize::try_from(id.as_u64()?).ok().filter(|id| *id < 1 << 24)?;
        if id >= tokens.len() {
            tokens.resize(id + 1, None);
        }
        tokens[id] = Some(Token { text: text.clone(), score: 0.0, kind: NORMAL });
    }
    Some(tokens)
}

/// As texts, or pairs in newer files.
fn merges(model: &Value) -> Option<Vec<String>> {
    let merge = |merge: &Value| match merge {
        Value::String(text) => Some(text.clone()),
        Value::Array(pair) => match pair.as_slice() {
            [Value::String(left), Value::String(right)] => Some(format!("{left} {right}")),
            _ => None,
        },
        _ => None,
    };
    model.get("merges")?.as_array()?.iter().map(merge).collect()
}

/// llama.cpp's name.
fn pre_tokenizer(json: &Map<String, Value>, ignore_merges: bool) -> Option<&'static str> {
    let kind = |value: &Value| value.get("type").and_then(Value::as_str).map(str::to_owned);
    let flag = |value: &Value, name: &str, default| value.get(name).and_then(Value::as_bool).unwrap_or(default);
    let pre = json.get("pre_tokenizer")?;
    let steps: Vec<&Value> = match pre.get("pretokenizers").and_then(Value::as_array) {
        Some(steps) => steps.iter().collect(),
        None => vec![pre],
    };
    let (last, before) = steps.split_last()?;
    if kind(last)? != "ByteLevel" || flag(last, "add_prefix_space", true) {
        return None;
    }
    // By default it cuts as GPT-2 does.
    let by_gpt2 = flag(last, "use_regex", true);
    match (before, by_gpt2) {
        ([], true) => Some("gpt-2"),
        ([digits], true) if kind(digits)? == "Digits" && flag(digits, "individual_digits", false) => Some("smollm"),
        ([split], false) if kind(split)? == "Split" && split.get("behavior")? == "Isolated" => {
            let text = split.get("pattern")?.get("Regex")?.as_str()?;
            let (_, name, whole) = PATTERNS.into_iter().find(|(digits, ..)| text == pattern(digits))?;
            whole.filter(|_| ignore_merges).or(Some(name))
        }
        _ => None,
    }
}

/// Whether a single text begins with a special token, which is BOS.
fn begins_with_special(json: &Map<String, Value>) -> bool {
    let Some(post) = json.get("post_processor") else { return false };
    let steps: Vec<&Value> = match post.get("processors").and_then(Value::as_array) {
        Some(steps) => steps.iter().collect(),
        None => vec![post],
    };
    let mut templates = steps.into_iter().filter_map(|step| step.get("single")?.as_array());
    templates.any(|single| single.first().is_some_and(|first| first.get("SpecialToken").is_some()))
}
