//! The tensors of a file that is written, by its own names.

use std::collections::BTreeMap;

use crate::load::TensorNames;

/// A tensor of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub name: String,
    pub shape: Vec<usize>,
    /// The engine's tensors whose rows it holds, one under another.
    pub parts: Vec<String>,
}

/// Those of a family's file, by name. `expected`: the engine's, with their shapes.
pub(super) fn written(names: &TensorNames, expected: &BTreeMap<String, Vec<usize>>) -> Vec<Written> {
    let (stored, locations) = names.locate(expected);
    let mut parts: BTreeMap<String, Vec<(usize, String)>> = BTreeMap::new();
    for (part, location) in locations {
        let first = location.rows.map_or(0, |rows| rows.start);
        parts.entry(location.name).or_default().push((first, part));
    }
    let whole = stored.into_iter().map(|(name, shape)| {
        let mut parts = parts.remove(&name).unwrap_or_default();
        parts.sort();
        Written { name, shape, parts: parts.into_iter().map(|(_, part)| part).collect() }
    });
    whole.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::names_of;

    #[test]
    fn parts_follow_one_another_as_in_the_file() {
        let path = |part: &str| format!("model.layers.0.self_attn.{part}_proj.weight");
        let expected = BTreeMap::from(["k", "o", "q", "v"].map(|part| (path(part), vec![8, 4])));
        let found = written(names_of("baichuan"), &expected);
        let packed = "model.layers.0.self_attn.W_pack.weight".to_owned();
        assert_eq!(
            found,
            [
                Written { name: packed, shape: vec![24, 4], parts: ["q", "k", "v"].map(path).to_vec() },
                Written { name: path("o"), shape: vec![8, 4], parts: vec![path("o")] },
            ]
        );
    }
}
