//! Cuts a text into words: patterns applied one after the other, each to what the one before it left. Matches and gaps are both words.

use regex_automata::meta::{Cache, Regex};
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input};

use crate::Unsupported;

/// A pattern without lookaround. Its classes are spelled out as ranges by the caller, so that Unicode's version is the caller's.
#[derive(Clone, Debug)]
pub struct SplitPattern {
    /// What is tried first, at every place; may be empty: nothing.
    pub head: String,
    /// The class of white space where the pattern ends in `|\s+(?!\S)|\s+`: such white space leaves its last character to the word behind it.
    pub space: Option<String>,
}

struct Stage {
    regex: Regex,
    cache: Cache,
    has_head: bool,
}

/// Cuts as the patterns of a tokenizer say.
pub struct PreTokenizer(Vec<Stage>);

impl PreTokenizer {
    /// Errors where a pattern is not one.
    pub fn new(patterns: &[SplitPattern]) -> Result<Self, Unsupported> {
        let stage = |pattern: &SplitPattern| {
            let space = pattern.space.iter().map(|class| format!("{class}+"));
            let head = (!pattern.head.is_empty()).then(|| pattern.head.clone());
            let parts: Vec<String> = head.into_iter().chain(space).collect();
            // Of two that match at one place the first counts, as among the sides of `|`.
            let syntax = syntax::Config::new().unicode(true).utf8(true);
            let built = Regex::builder().syntax(syntax).build_many(&parts);
            let regex = built.map_err(|error| Unsupported(format!("the pattern {:?}: {error}", pattern.head)))?;
            let cache = regex.create_cache();
            Ok(Stage { regex, cache, has_head: !pattern.head.is_empty() })
        };
        patterns.iter().map(stage).collect::<Result<_, _>>().map(Self)
    }

    /// Gives the words of a text, in order; none is empty.
    pub fn split(&mut self, text: &str, mut word: impl FnMut(&str)) {
        split(&mut self.0, text, &mut word);
    }
}

fn split(stages: &mut [Stage], text: &str, word: &mut dyn FnMut(&str)) {
    let Some((first, rest)) = stages.split_first_mut() else {
        if !text.is_empty() {
            word(text);
        }
        return;
    };
    let mut give = |piece: &str| split(rest, piece, word);
    let (mut start, mut at) = (0, 0);
    while at <= text.len() {
        let Some((from, to)) = first.find(text, at) else { break };
        if start < from {
            give(&text[start..from]);
        }
        if from < to {
            give(&text[from..to]);
        }
        start = to;
        at = if from < to { to } else { to + text[to..].chars().next().map_or(1, char::len_utf8) };
    }
    if start < text.len() {
        give(&text[start..]);
    }
}

impl Stage {
    /// The first match from a place on.
    fn find(&mut self, text: &str, at: usize) -> Option<(usize, usize)> {
        // Most patterns match at every place: then nothing has to be searched backwards for where the match began.
        let input = Input::new(text).range(at..);
        let here = self.regex.search_with(&mut self.cache, &input.clone().anchored(Anchored::Yes));
        let found = here.or_else(|| self.regex.search_with(&mut self.cache, &input))?;
        let (from, to) = (found.start(), found.end());
        let is_space = found.pattern().as_usize() == usize::from(self.has_head);
        if !is_space || to == text.len() {
            return Some((from, to));
        }
        let last = text[from..to].chars().next_back().map_or(0, char::len_utf8);
        // A single character of white space is a word, whatever follows.
        Some((from, if to - last > from { to - last } else { to }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(patterns: &[SplitPattern], text: &str) -> Vec<String> {
        let mut words = Vec::new();
        PreTokenizer::new(patterns).unwrap().split(text, |word| words.push(word.to_owned()));
        words
    }

    fn pattern(head: &str, space: Option<&str>) -> SplitPattern {
        SplitPattern { head: head.to_owned(), space: space.map(str::to_owned) }
    }

    #[test]
    fn white_space_leaves_its_last_character_to_the_next_word() {
        let patterns = [pattern(r" ?[a-z]+|[\t ]*[\n]+", Some(r"[\n\t ]"))];
        assert_eq!(words(&patterns, "a   b \n c\t\td  "), ["a", "  ", " b", " \n", " c", "\t", "\t", "d", "  "]);
        // Without an alternative for line ends these are white space as any other.
        let patterns = [pattern(r" ?[a-z]+", Some(r"[\n\t ]"))];
        assert_eq!(words(&patterns, "a\n\nb \n"), ["a", "\n", "\n", "b", " \n"]);
    }

    #[test]
    fn patterns_cut_what_is_left_and_keep_gaps() {
        let patterns = [pattern("[0-9]", None), pattern("[a-c]+", None)];
        assert_eq!(words(&patterns, "xabc12yy"), ["x", "abc", "1", "2", "yy"]);
        assert_eq!(words(&[], "one word"), ["one word"]);
        assert!(words(&patterns, "").is_empty());
    }

    #[test]
    fn an_empty_match_cuts() {
        assert_eq!(words(&[pattern("b*", None)], "aébb"), ["a", "é", "bb"]);
    }

    #[test]
    fn refuses_what_is_no_pattern() {
        assert!(PreTokenizer::new(&[pattern("(?=a)", None)]).is_err());
    }
}
