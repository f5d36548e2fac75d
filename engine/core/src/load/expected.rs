//! The tensors a configuration calls for, under Llama's names, and the check that files have exactly them.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::ModelConfig;
use crate::ops::RopeShape;

/// Module names that LoRA may target, in the order of a block's forward.
pub(crate) const LINEAR_MODULES: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Largest plausible value of any size in a configuration; keeps products of sizes far from overflow.
const MAX_SIZE: usize = 1 << 26;
const MAX_LAYERS: usize = 4096;
/// At most this many names are listed in a message.
const MAX_LISTED: usize = 8;

/// Checks that the sizes of a configuration fit together. The error says which does not, for the caller to put into its own words.
pub(crate) fn check_sizes(config: &ModelConfig) -> Result<(), String> {
    let sizes = [
        ("vocab_size", config.vocab_size),
        ("hidden_size", config.hidden_size),
        ("intermediate_size", config.intermediate_size),
        ("num_attention_heads", config.num_attention_heads),
        ("num_key_value_heads", config.num_key_value_heads),
        ("head_dim", config.head_dim),
        ("max_position_embeddings", config.max_position_embeddings),
    ];
    if let Some((name, value)) = sizes.into_iter().find(|(_, value)| !(1..=MAX_SIZE).contains(value)) {
        return Err(format!("{name} is {value}; expected 1 to {MAX_SIZE}"));
    }
    if !(1..=MAX_LAYERS).contains(&config.num_hidden_layers) {
        return Err(format!("num_hidden_layers is {}; expected 1 to {MAX_LAYERS}", config.num_hidden_layers));
    }
    if !config.num_attention_heads.is_multiple_of(config.num_key_value_heads) {
        return Err(format!(
            "num_attention_heads {} is not a multiple of num_key_value_heads {}",
            config.num_attention_heads, config.num_key_value_heads
        ));
    }
    if let Some(window) = config.sliding_window.filter(|window| !(1..=MAX_SIZE).contains(window)) {
        return Err(format!("sliding_window is {window}; expected 1 to {MAX_SIZE}, or none"));
    }
    if let Some(RopeShape { rotated, head_dim, .. }) = config.rope_shape(1)
        && !(rotated.is_multiple_of(2) && (2..=head_dim).contains(&rotated))
    {
        return Err(format!("{rotated} numbers of heads of {head_dim} are to be rotated; rotary positions need pairs"));
    }
    let positive = |value: f64| value.is_finite() && value > 0.0;
    if !positive(config.rope_theta) || !positive(config.rms_norm_eps) {
        return Err(format!(
            "rope_theta {} and rms_norm_eps {} must be finite and above 0",
            config.rope_theta, config.rms_norm_eps
        ));
    }
    match config.eos_token_ids.iter().find(|id| **id as usize >= config.vocab_size) {
        Some(id) => Err(format!("end-of-sequence id {id} is outside the vocabulary of {}", config.vocab_size)),
        None => Ok(()),
    }
}

/// Every tensor the configuration calls for, by Hugging Face name, with its shape. The sizes must have passed [`check_sizes`].
pub(crate) fn expected_tensors(config: &ModelConfig) -> BTreeMap<String, Vec<usize>> {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let (query, key_value) = (config.query_size(), config.key_value_size());
    let mut tensors = BTreeMap::new();
    tensors.insert("model.embed_tokens.weight".to_owned(), vec![config.vocab_size, hidden]);
    tensors.insert("model.norm.weight".to_owned(), vec![hidden]);
    if !config.tie_word_embeddings {
        tensors.insert("lm_head.weight".to_owned(), vec![config.vocab_size, hidden]);
    }
    for layer in 0..config.num_hidden_layers {
        let block: [(&str, Vec<usize>); 9] = [
            ("input_layernorm", vec![hidden]),
            ("self_attn.q_proj", vec![query, hidden]),
            ("self_attn.k_proj", vec![key_value, hidden]),
            ("self_attn.v_proj", vec![key_value, hidden]),
            ("self_attn.o_proj", vec![hidden, query]),
            ("post_attention_layernorm", vec![hidden]),
            ("mlp.gate_proj", vec![inner, hidden]),
            ("mlp.up_proj", vec![inner, hidden]),
            ("mlp.down_proj", vec![hidden, inner]),
        ];
        for (module, shape) in block {
            tensors.insert(format!("model.layers.{layer}.{module}.weight"), shape);
        }
        for module in crate::model::LINEAR_MODULES.into_iter().filter(|module| module.has_bias(config)) {
            let shape = vec![module.shape(config).0];
            tensors.insert(format!("model.layers.{layer}.{}.bias", module.path()), shape);
        }
        if config.variant.query_key_norm {
            for norm in ["q_norm", "k_norm"] {
                tensors.insert(format!("model.layers.{layer}.self_attn.{norm}.weight"), vec![config.head_dim]);
            }
        }
    }
    tensors
}

/// Compares names and shapes. The error lists what is missing (with the nearest name that is there), what nobody asked for, and wrong shapes.
pub(crate) fn check_tensors<'a>(
    expected: &BTreeMap<String, Vec<usize>>,
    found: impl IntoIterator<Item = (&'a str, &'a [usize])>,
) -> Result<(), String> {
    let found: BTreeMap<&str, &[usize]> = found.into_iter().collect();
    let surplus: BTreeSet<&str> = found.keys().copied().filter(|name| !expected.contains_key(*name)).collect();
    let missing: Vec<String> = expected
        .iter()
        .filter(|(name, _)| !found.contains_key(name.as_str()))
        .map(|(name, shape)| match nearest(name, &surplus) {
            Some(close) => format!("`{name}` {shape:?} (nearest: `{close}`)"),
            None => format!("`{name}` {shape:?}"),
        })
        .collect();
    let misshapen: Vec<String> = expected
        .iter()
        .filter_map(|(name, shape)| {
            let other = found.get(name.as_str()).filter(|other| **other != shape.as_slice())?;
            Some(format!("`{name}`: expected {shape:?}, found {other:?}"))
        })
        .collect();
    let mut parts = Vec::new();
    if !missing.is_empty() {
        parts.push(format!("missing tensors: {}", listed(&missing)));
    }
    if !surplus.is_empty() {
        let names: Vec<String> = surplus.iter().map(|name| format!("`{name}`")).collect();
        parts.push(format!("tensors that the configuration does not call for: {}", listed(&names)));
    }
    if !misshapen.is_empty() {
        parts.push(format!("tensors of another shape than the configuration says: {}", listed(&misshapen)));
    }
    if parts.is_empty() { Ok(()) } else { Err(parts.join("; ")) }
}

fn listed(items: &[String]) -> String {
    let shown = items.iter().take(MAX_LISTED).cloned().collect::<Vec<_>>().join(", ");
    if items.len() > MAX_LISTED { format!("{shown} and {} more", items.len() - MAX_LISTED) } else { shown }
}

/// The candidate with the smallest edit distance, where that is at most a third of the name.
pub(crate) fn nearest<'a>(name: &str, candidates: &BTreeSet<&'a str>) -> Option<&'a str> {
    // Distances are quadratic in the name's length; beyond this many candidates the hint is not worth its time.
    const MAX_CANDIDATES: usize = 512;
    let (distance, close) = candidates
        .iter()
        .take(MAX_CANDIDATES)
        .map(|candidate| (edit_distance(name.as_bytes(), candidate.as_bytes()), *candidate))
        .min()?;
    (distance <= name.len() / 3).then_some(close)
}

fn edit_distance(left: &[u8], right: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_insertions_deletions_and_replacements() {
        assert_eq!(edit_distance(b"kitten", b"sitting"), 3);
        assert_eq!(edit_distance(b"", b"abc"), 3);
        assert_eq!(edit_distance(b"same", b"same"), 0);
    }

    #[test]
    fn a_misspelt_tensor_is_reported_with_its_nearest_name() {
        let expected = BTreeMap::from([("model.norm.weight".to_owned(), vec![4]), ("b".to_owned(), vec![2, 2])]);
        let four = [4usize];
        let wrong = [2usize, 3];
        let message =
            check_tensors(&expected, [("model.norm.wieght", four.as_slice()), ("b", wrong.as_slice())]).unwrap_err();
        assert!(
            message.contains("missing tensors: `model.norm.weight` [4] (nearest: `model.norm.wieght`)"),
            "{message}"
        );
        assert!(message.contains("does not call for: `model.norm.wieght`"), "{message}");
        assert!(message.contains("`b`: expected [2, 2], found [2, 3]"), "{message}");
    }
}
