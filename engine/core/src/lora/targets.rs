//! Which linear layers have low-rank halves, and with which rank and alpha: PEFT's rules, by module path.
//!
//! Source: PEFT 0.21, `check_target_module_exists` and `_maybe_include_all_linear_layers` of `tuners/tuners_utils.py`, `get_pattern_key` of
//! `utils/other.py`.

use std::collections::BTreeMap;

use fancy_regex::{Regex, RegexBuilder};

use crate::error::{EngineError, Result};

/// Steps back that matching one path may take: a pattern that needs more is refused instead of holding a thread.
const BACKTRACK_LIMIT: usize = 100_000;

/// Modules of a model.
#[derive(Clone, Debug, PartialEq)]
pub enum ModuleNames {
    /// Every linear layer but the output layer.
    AllLinear,
    /// Full module paths, or ends of them after a dot, such as `q_proj`.
    Names(Vec<String>),
    /// A regular expression that a whole module path must match.
    Pattern(String),
}

/// What is adapted. Fields have PEFT's names and meaning.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraTargets {
    pub target_modules: ModuleNames,
    /// Not adapted, even where they are targets.
    pub exclude_modules: Option<ModuleNames>,
    /// Blocks whose layers are adapted; none: all. Holds for names; where a name is a full path, the path wins.
    pub layers_to_transform: Option<Vec<usize>>,
    /// Regular expressions of what stands before a block's number, such as `layers`; empty: anything.
    pub layers_pattern: Vec<String>,
    /// Ranks that differ from the adapter's, by a module's name, the end of its path or a regular expression of one. The first one that
    /// matches holds; PEFT writes its files in this order.
    pub rank_pattern: BTreeMap<String, usize>,
    /// The same for alpha.
    pub alpha_pattern: BTreeMap<String, f64>,
}

impl Default for LoraTargets {
    fn default() -> Self {
        Self {
            target_modules: ModuleNames::AllLinear,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: Vec::new(),
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
        }
    }
}

impl LoraTargets {
    /// Reads every regular expression, without a model.
    ///
    /// Errors: `INVALID_ARGUMENT` for one that cannot be read, or settings that PEFT does not take together.
    pub fn check(&self) -> Result<()> {
        TargetRules::new(self).map(drop)
    }

    /// Modules by name, in every block.
    pub fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let names = names.into_iter().map(str::to_owned).collect();
        Self { target_modules: ModuleNames::Names(names), ..Self::default() }
    }
}

/// Whether a name is a module path or the end of one.
pub(super) fn names_module(name: &str, path: &str) -> bool {
    path == name || path.strip_suffix(name).is_some_and(|before| before.ends_with('.'))
}

/// A regular expression with the text it was made from.
struct Pattern {
    text: String,
    regex: Regex,
}

impl Pattern {
    fn new(text: &str, whole: &str) -> Result<Self> {
        let regex = RegexBuilder::new(whole).backtrack_limit(BACKTRACK_LIMIT).build();
        let regex = regex.map_err(|cause| {
            EngineError::invalid(format!("`{text}` is no regular expression that can be read: {cause}"))
        })?;
        Ok(Self { text: text.to_owned(), regex })
    }

    /// Python's `re.fullmatch`.
    fn full(text: &str) -> Result<Self> {
        // Alone first: `a)|(b` is only a regular expression between parentheses.
        Self::new(text, text)?;
        Self::new(text, &format!(r"\A(?:{text})\z"))
    }

    /// A key of `rank_pattern` or `alpha_pattern`.
    fn key(text: &str) -> Result<Self> {
        Self::new(text, &format!(r"\A(.*\.)?({text})\z"))
    }

    fn matches(&self, path: &str) -> Result<bool> {
        self.regex.is_match(path).map_err(|cause| self.failed(path, &cause))
    }

    /// The number that the group `idx` matches.
    fn index(&self, path: &str) -> Result<Option<usize>> {
        let captures = self.regex.captures(path).map_err(|cause| self.failed(path, &cause))?;
        Ok(captures.and_then(|captures| captures.name("idx")?.as_str().parse().ok()))
    }

    fn failed(&self, path: &str, cause: &fancy_regex::Error) -> EngineError {
        EngineError::invalid(format!("the regular expression `{}` cannot be matched with `{path}`: {cause}", self.text))
    }
}

/// [`ModuleNames`] with its regular expression read.
enum Choice<'a> {
    AllLinear,
    Names(&'a [String]),
    Pattern(Pattern),
}

impl<'a> Choice<'a> {
    fn new(names: &'a ModuleNames) -> Result<Self> {
        Ok(match names {
            ModuleNames::AllLinear => Self::AllLinear,
            ModuleNames::Names(names) => Self::Names(names),
            ModuleNames::Pattern(text) => Self::Pattern(Pattern::full(text)?),
        })
    }

    fn contains(&self, path: &str) -> Result<bool> {
        match self {
            Self::AllLinear => Ok(true),
            Self::Names(names) => Ok(names.iter().any(|name| names_module(name, path))),
            Self::Pattern(pattern) => pattern.matches(path),
        }
    }
}

/// [`LoraTargets`] with its regular expressions read.
pub(crate) struct TargetRules<'a> {
    targets: Choice<'a>,
    excluded: Option<Choice<'a>>,
    layers: Option<&'a [usize]>,
    layer_index: Vec<Pattern>,
    ranks: Vec<(Pattern, usize)>,
    alphas: Vec<(Pattern, f64)>,
}

impl<'a> TargetRules<'a> {
    /// Errors: `INVALID_ARGUMENT` for a regular expression that cannot be read, or settings that PEFT does not take together.
    pub fn new(of: &'a LoraTargets) -> Result<Self> {
        let layers = of.layers_to_transform.as_deref().filter(|layers| !layers.is_empty());
        if !of.layers_pattern.is_empty() && layers.is_none() {
            return Err(EngineError::invalid("layers_pattern without layers_to_transform has no use; name the layers"));
        }
        if layers.is_some() && matches!(of.target_modules, ModuleNames::Pattern(_)) {
            return Err(EngineError::invalid(
                "layers_to_transform needs target_modules as names; a regular expression can name the layers itself",
            ));
        }
        let layer_index = if of.layers_pattern.is_empty() {
            vec![Pattern::new("layers_to_transform", r"\A.*?\.[^.]*\.(?P<idx>\d+)\.")?]
        } else {
            let index = |text: &String| Pattern::new(text, &format!(r"\A(?:|.*?\.){text}\.(?P<idx>\d+)\."));
            of.layers_pattern.iter().map(index).collect::<Result<_>>()?
        };
        Ok(Self {
            targets: Choice::new(&of.target_modules)?,
            excluded: of.exclude_modules.as_ref().map(Choice::new).transpose()?,
            layers,
            layer_index,
            ranks: keys(&of.rank_pattern)?,
            alphas: keys(&of.alpha_pattern)?,
        })
    }

    /// Whether a linear layer is adapted.
    ///
    /// Errors: `INVALID_ARGUMENT` for a regular expression that takes too long.
    pub fn is_target(&self, path: &str) -> Result<bool> {
        self.is_target_by_any(&[path])
    }

    /// Whether a linear layer of several paths is adapted: by any of them a target, by none excluded.
    pub fn is_target_by_any<P: AsRef<str>>(&self, paths: &[P]) -> Result<bool> {
        if let Some(excluded) = &self.excluded {
            for path in paths {
                if excluded.contains(path.as_ref())? {
                    return Ok(false);
                }
            }
        }
        for path in paths {
            if self.is_chosen(path.as_ref())? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a path is that of a target in one of the layers.
    fn is_chosen(&self, path: &str) -> Result<bool> {
        if !self.targets.contains(path)? {
            return Ok(false);
        }
        let is_named = matches!(self.targets, Choice::Names(names) if names.iter().any(|name| name == path));
        let Some(layers) = self.layers.filter(|_| !is_named) else { return Ok(true) };
        for pattern in &self.layer_index {
            if let Some(index) = pattern.index(path)? {
                return Ok(layers.contains(&index));
            }
        }
        Ok(false)
    }

    /// The rank that a pattern gives a module.
    pub fn rank(&self, path: &str) -> Result<Option<usize>> {
        first(&self.ranks, &[path])
    }

    /// The rank that a pattern gives a module of several paths.
    pub fn rank_by_any<P: AsRef<str>>(&self, paths: &[P]) -> Result<Option<usize>> {
        first(&self.ranks, paths)
    }

    /// The alpha that a pattern gives a module.
    pub fn alpha(&self, path: &str) -> Result<Option<f64>> {
        first(&self.alphas, &[path])
    }

    /// The alpha that a pattern gives a module of several paths.
    pub fn alpha_by_any<P: AsRef<str>>(&self, paths: &[P]) -> Result<Option<f64>> {
        first(&self.alphas, paths)
    }

    /// A key of `rank_pattern` or `alpha_pattern` that matches none of these paths.
    pub fn unused_key(&self, paths: &[String]) -> Result<Option<&str>> {
        let patterns =
            self.ranks.iter().map(|(pattern, _)| pattern).chain(self.alphas.iter().map(|(pattern, _)| pattern));
        for pattern in patterns {
            let mut used = false;
            for path in paths {
                used = used || pattern.matches(path)?;
            }
            if !used {
                return Ok(Some(&pattern.text));
            }
        }
        Ok(None)
    }
}

fn keys<T: Copy>(patterns: &BTreeMap<String, T>) -> Result<Vec<(Pattern, T)>> {
    patterns.iter().map(|(key, value)| Ok((Pattern::key(key)?, *value))).collect()
}

fn first<T: Copy, P: AsRef<str>>(patterns: &[(Pattern, T)], paths: &[P]) -> Result<Option<T>> {
    for (pattern, value) in patterns {
        for path in paths {
            if pattern.matches(path.as_ref())? {
                return Ok(Some(*value));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    const Q0: &str = "model.layers.0.self_attn.q_proj";
    const UP1: &str = "model.layers.1.mlp.up_proj";
    const UP11: &str = "model.layers.11.mlp.up_proj";

    fn chosen(targets: &LoraTargets) -> Vec<&'static str> {
        let rules = TargetRules::new(targets).unwrap();
        [Q0, UP1, UP11].into_iter().filter(|path| rules.is_target(path).unwrap()).collect()
    }

    fn pattern(text: &str) -> LoraTargets {
        LoraTargets { target_modules: ModuleNames::Pattern(text.to_owned()), ..LoraTargets::default() }
    }

    /// As `re.fullmatch`: the whole path, in whatever way the alternatives allow.
    #[test]
    fn patterns_match_whole_paths() {
        assert!(chosen(&pattern("q_proj")).is_empty());
        assert_eq!(chosen(&pattern(r".*\.q_proj|model.*mlp")), [Q0]);
        assert_eq!(chosen(&pattern(r"model(|\.layers\.1.*)")), [UP1, UP11]);
        assert_eq!(chosen(&pattern(r"(?!.*self_attn).*layers\.1\..*")), [UP1]);
    }

    #[test]
    fn names_are_whole_components() {
        assert!(chosen(&LoraTargets::named(["proj", "p_proj", "1.mlp"])).is_empty());
        assert_eq!(chosen(&LoraTargets::named(["1.mlp.up_proj", Q0])), [Q0, UP1]);
    }

    /// A name that is a full path stands above the choice of layers.
    #[test]
    fn layers_hold_for_ends_of_paths() {
        let names = LoraTargets::named(["up_proj", Q0]);
        assert_eq!(chosen(&LoraTargets { layers_to_transform: Some(vec![11]), ..names.clone() }), [Q0, UP11]);
        let elsewhere = vec!["h".to_owned(), "blocks".to_owned()];
        let none = LoraTargets { layers_to_transform: Some(vec![1]), layers_pattern: elsewhere, ..names };
        assert_eq!(chosen(&none), [Q0]);
        let excluded = ModuleNames::Names(vec!["q_proj".to_owned()]);
        assert_eq!(chosen(&LoraTargets { exclude_modules: Some(excluded), ..LoraTargets::default() }), [UP1, UP11]);
    }

    /// Keys in the order of PEFT's files; `1.mlp` of a key may begin anywhere after a dot, but not within a number.
    #[test]
    fn the_first_key_that_matches_gives_the_rank() {
        let keys = [("1.mlp.up_proj", 3), ("up_proj", 5), (r"[a-z]*\.q_proj", 7)];
        let rank_pattern = keys.into_iter().map(|(key, r)| (key.to_owned(), r)).collect();
        let targets = LoraTargets { rank_pattern, ..LoraTargets::default() };
        let rules = TargetRules::new(&targets).unwrap();
        let ranks = [Q0, UP1, UP11].map(|path| rules.rank(path).unwrap());
        assert_eq!(ranks, [None, Some(3), Some(5)]);
        assert_eq!(rules.unused_key(&[UP1.to_owned(), UP11.to_owned()]).unwrap(), Some(r"[a-z]*\.q_proj"));
    }

    #[test]
    fn what_cannot_be_read_or_does_not_go_together_is_refused() {
        let layers = Some(vec![0]);
        let cases = [
            (pattern("(q_proj"), "(q_proj"),
            (pattern("a)|(b"), "a)|(b"),
            (LoraTargets { layers_to_transform: layers, ..pattern(".*") }, "layers_to_transform"),
            (LoraTargets { layers_pattern: vec!["h".to_owned()], ..LoraTargets::default() }, "layers_pattern"),
        ];
        for (targets, named) in cases {
            let error = TargetRules::new(&targets).err().unwrap();
            assert_eq!(error.code, ErrorCode::InvalidArgument);
            assert!(error.message.contains(named), "{error}");
        }
        let slow = pattern(r"(?:(?=.)\w+[._]?)*!");
        let error = TargetRules::new(&slow).unwrap().is_target(&"a".repeat(64)).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidArgument);
    }
}
