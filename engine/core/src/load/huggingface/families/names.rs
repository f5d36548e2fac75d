//! A family's names for tensors and modules, beside Llama's, under which the decoder asks for them.

use std::collections::BTreeMap;
use std::ops::Range;

/// Llama's prefix of a block, before its number.
const LAYERS: &str = "model.layers";

/// What a family names otherwise than Llama.
#[derive(Debug, PartialEq)]
pub(crate) struct TensorNames {
    /// `model.embed_tokens`, `model.norm` and `lm_head`.
    pub outside: [&'static str; 3],
    /// Before a block's number.
    pub layers: &'static str,
    /// Inside a block: the family's module, and Llama's whose rows it holds, one under another.
    pub modules: &'static [(&'static str, &'static [&'static str])],
}

impl TensorNames {
    /// Llama's own.
    pub const LLAMA: Self =
        Self { outside: ["model.embed_tokens", "model.norm", "lm_head"], layers: LAYERS, modules: &[] };

    /// The family's name for a module of Llama's, and all modules of Llama's that lie in it, in their order.
    pub fn of_module(&self, path: &str) -> (String, Vec<String>) {
        let outside = Self::LLAMA.outside.iter().position(|name| *name == path);
        let block = path.strip_prefix(LAYERS).and_then(|rest| rest.strip_prefix('.')?.split_once('.'));
        match (outside, block) {
            (Some(which), _) => (self.outside[which].to_owned(), vec![path.to_owned()]),
            (None, Some((number, module))) => {
                let holds = |(_, parts): &&(&str, &[&str])| parts.contains(&module);
                match self.modules.iter().find(holds) {
                    Some((own, parts)) => {
                        let parts = parts.iter().map(|part| format!("{LAYERS}.{number}.{part}"));
                        (format!("{}.{number}.{own}", self.layers), parts.collect())
                    }
                    None => (format!("{}.{number}.{module}", self.layers), vec![path.to_owned()]),
                }
            }
            (None, None) => (path.to_owned(), vec![path.to_owned()]),
        }
    }

    /// Llama's modules that lie in a module of the family's; of another path, that path alone.
    pub fn in_module(&self, path: &str) -> Vec<String> {
        let block = path.strip_prefix(self.layers).and_then(|rest| rest.strip_prefix('.')?.split_once('.'));
        let Some((number, module)) = block else { return vec![path.to_owned()] };
        match self.modules.iter().find(|(own, _)| *own == module) {
            Some((_, parts)) => parts.iter().map(|part| format!("{LAYERS}.{number}.{part}")).collect(),
            None => vec![format!("{LAYERS}.{number}.{module}")],
        }
    }

    /// The tensors of a file, by the family's names, and where in them each of Llama's tensors lies. `expected`: the latter with their shapes.
    pub fn locate(&self, expected: &BTreeMap<String, Vec<usize>>) -> (BTreeMap<String, Vec<usize>>, Locations) {
        let (mut stored, mut locations) = (BTreeMap::new(), BTreeMap::new());
        for (name, shape) in expected {
            let (module, kind) = name.rsplit_once('.').unwrap_or((name, ""));
            let (own, parts) = self.of_module(module);
            let rows_of = |part: &String| expected.get(&format!("{part}.{kind}")).map_or(0, |shape| shape[0]);
            let before = parts.iter().take_while(|part| *part != module).map(rows_of).sum::<usize>();
            let all = parts.iter().map(rows_of).sum::<usize>();
            let rows = (all != shape[0]).then_some(before..before + shape[0]);
            let whole = std::iter::once(all).chain(shape[1..].iter().copied()).collect();
            stored.insert(format!("{own}.{kind}"), whole);
            locations.insert(name.clone(), Location { name: format!("{own}.{kind}"), rows });
        }
        (stored, locations)
    }
}

/// Where a tensor of Llama's lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    /// The file's tensor.
    pub name: String,
    /// Its rows; none: all of them.
    pub rows: Option<Range<usize>>,
}

/// By Llama's names.
pub(crate) type Locations = BTreeMap<String, Location>;

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: TensorNames = TensorNames {
        outside: ["t.table", "t.last", "t.out"],
        layers: "t.blocks",
        modules: &[("attn.qkv", &["self_attn.q_proj", "self_attn.k_proj"]), ("attn.dense", &["self_attn.o_proj"])],
    };

    #[test]
    fn rows_of_a_fused_tensor_follow_one_another() {
        let expected = [
            ("lm_head.weight", vec![9, 4]),
            ("model.layers.3.self_attn.q_proj.weight", vec![6, 4]),
            ("model.layers.3.self_attn.k_proj.weight", vec![2, 4]),
            ("model.layers.3.self_attn.q_proj.bias", vec![6]),
            ("model.layers.3.self_attn.k_proj.bias", vec![2]),
            ("model.layers.3.self_attn.o_proj.weight", vec![4, 6]),
            ("model.layers.3.input_layernorm.weight", vec![4]),
        ];
        let (stored, locations) = NAMES.locate(&expected.map(|(name, shape)| (name.to_owned(), shape)).into());
        let stored: Vec<(&str, &[usize])> = stored.iter().map(|(name, shape)| (name.as_str(), &**shape)).collect();
        assert_eq!(
            stored,
            [
                ("t.blocks.3.attn.dense.weight", &[4, 6][..]),
                ("t.blocks.3.attn.qkv.bias", &[8]),
                ("t.blocks.3.attn.qkv.weight", &[8, 4]),
                ("t.blocks.3.input_layernorm.weight", &[4]),
                ("t.out.weight", &[9, 4]),
            ]
        );
        let key = &locations["model.layers.3.self_attn.k_proj.weight"];
        assert_eq!((key.name.as_str(), key.rows.clone()), ("t.blocks.3.attn.qkv.weight", Some(6..8)));
        assert_eq!(locations["model.layers.3.self_attn.q_proj.bias"].rows, Some(0..6));
        assert_eq!(locations["lm_head.weight"].rows, None);
    }

    #[test]
    fn modules_are_found_both_ways() {
        let parts = ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj"];
        assert_eq!(NAMES.in_module("t.blocks.0.attn.qkv"), parts);
        assert_eq!(NAMES.of_module(parts[1]), ("t.blocks.0.attn.qkv".to_owned(), parts.map(str::to_owned).to_vec()));
        // What is named as in Llama stays as it is.
        assert_eq!(NAMES.in_module("model.layers.0.self_attn.q_proj"), [parts[0]]);
        assert_eq!(NAMES.in_module("t.blocks.0.mlp.up_proj"), ["model.layers.0.mlp.up_proj"]);
    }
}
