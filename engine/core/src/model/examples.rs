//! Examples as token ids and labels, wherever they are kept.

use std::sync::Arc;

use crate::config::ModelConfig;
use crate::error::{EngineError, ErrorCode, Result};

/// Label of a position that is not learned.
pub const IGNORED_LABEL: i32 = -100;

/// Examples by number, from 0. Labels are not shifted; -100 is ignored.
pub trait Examples: Send + Sync {
    /// Number of examples.
    fn len(&self) -> usize;

    /// Ids and labels of one example, equally many.
    fn example(&self, index: usize) -> (&[u32], &[i32]);

    /// Tokens of one example.
    fn example_len(&self, index: usize) -> usize {
        self.example(index).0.len()
    }

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Labels that are learned in one example: those after the first position.
    fn label_count(&self, index: usize) -> usize {
        self.example(index).1.iter().skip(1).filter(|label| **label != IGNORED_LABEL).count()
    }

    /// Tokens of each example.
    fn lengths(&self) -> Vec<u32> {
        (0..self.len()).map(|index| self.example_len(index) as u32).collect()
    }

    /// Tokens of the longest example.
    fn longest(&self) -> usize {
        (0..self.len()).map(|index| self.example_len(index)).max().unwrap_or(0)
    }

    /// Whether the parts fit together, so that every number below `len` is an example. `what` as in [`Examples::validate`].
    fn check_layout(&self, what: &str) -> Result<()>;

    /// Checks the examples against a model. `what` names them in messages (`training`, `evaluation`).
    ///
    /// Errors, naming the example: `INVALID_ARGUMENT` (no examples, parts that do not fit, an id or label outside the vocabulary),
    /// `SEQUENCE_TOO_LONG`, `NO_TRAINABLE_TOKENS`.
    fn validate(&self, config: &ModelConfig, what: &str) -> Result<()> {
        if self.is_empty() {
            return Err(EngineError::invalid(format!("there are no {what} examples; give at least one")));
        }
        self.check_layout(what)?;
        let vocabulary = config.vocab_size;
        // Whole examples at a time, several numbers at once; places are looked for where there is something to tell.
        let outside = |number: u32| number as usize >= vocabulary;
        let unknown = |label: i32| label != IGNORED_LABEL && outside(label as u32);
        for index in 0..self.len() {
            let (ids, labels) = self.example(index);
            if ids.iter().fold(false, |found, id| found | outside(*id)) {
                let (position, id) = place(ids, outside);
                let message = format!(
                    "{what} example {index}: id {id} at position {position} is outside the vocabulary of {vocabulary}"
                );
                return Err(EngineError::invalid(message));
            }
            if labels.iter().fold(false, |found, label| found | unknown(*label)) {
                let (position, label) = place(labels, unknown);
                let message = format!(
                    "{what} example {index}: label {label} at position {position} is neither {IGNORED_LABEL} nor inside the vocabulary of {vocabulary}"
                );
                return Err(EngineError::invalid(message));
            }
            let limit = config.max_position_embeddings;
            if ids.len() > limit {
                let message = format!(
                    "{what} example {index} has {} tokens; the model's context is {limit}; shorten it",
                    ids.len()
                );
                return Err(EngineError::new(ErrorCode::SequenceTooLong, message));
            }
            if self.label_count(index) == 0 {
                let message = format!(
                    "{what} example {index} has no trainable token: every label after the first position is {IGNORED_LABEL}"
                );
                return Err(EngineError::new(ErrorCode::NoTrainableTokens, message));
            }
        }
        Ok(())
    }
}

/// The first number that is meant, and its position; zeros where none is.
fn place<T: Copy + Default>(numbers: &[T], meant: impl Fn(T) -> bool) -> (usize, T) {
    numbers.iter().copied().enumerate().find(|(_, number)| meant(*number)).unwrap_or_default()
}

/// Examples in memory, concatenated. Example i is `[offsets[i], offsets[i + 1])`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenExamples {
    pub input_ids: Vec<u32>,
    pub labels: Vec<i32>,
    pub offsets: Vec<u32>,
}

impl Examples for TokenExamples {
    fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    fn example(&self, index: usize) -> (&[u32], &[i32]) {
        let range = self.offsets[index] as usize..self.offsets[index + 1] as usize;
        (&self.input_ids[range.clone()], &self.labels[range])
    }

    fn example_len(&self, index: usize) -> usize {
        (self.offsets[index + 1] - self.offsets[index]) as usize
    }

    fn check_layout(&self, what: &str) -> Result<()> {
        let tokens = self.input_ids.len();
        let fits = self.offsets[0] == 0 && self.offsets.is_sorted() && self.offsets.last() == Some(&(tokens as u32));
        if fits && self.labels.len() == tokens && u32::try_from(tokens).is_ok() {
            return Ok(());
        }
        Err(EngineError::invalid(format!(
            "{what} examples: {tokens} ids, {} labels and offsets from {} to {} do not fit together",
            self.labels.len(),
            self.offsets[0],
            self.offsets[self.len()]
        )))
    }
}

impl<E: Examples + ?Sized> Examples for Box<E> {
    fn len(&self) -> usize {
        (**self).len()
    }

    fn example(&self, index: usize) -> (&[u32], &[i32]) {
        (**self).example(index)
    }

    fn example_len(&self, index: usize) -> usize {
        (**self).example_len(index)
    }

    fn check_layout(&self, what: &str) -> Result<()> {
        (**self).check_layout(what)
    }
}

impl<E: Examples + ?Sized> Examples for Arc<E> {
    fn len(&self) -> usize {
        (**self).len()
    }

    fn example(&self, index: usize) -> (&[u32], &[i32]) {
        (**self).example(index)
    }

    fn example_len(&self, index: usize) -> usize {
        (**self).example_len(index)
    }

    fn check_layout(&self, what: &str) -> Result<()> {
        (**self).check_layout(what)
    }
}
