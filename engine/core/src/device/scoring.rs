//! Scoring as a task.

use super::task::{Task, Turn};
use crate::error::{EngineError, Result};
use crate::generate::{Scoring, TokenScores};

type Answer = Box<dyn FnOnce(Result<TokenScores>) + Send>;

pub(super) struct ScoringTask {
    scoring: Scoring,
    answer: Option<Answer>,
}

impl ScoringTask {
    pub fn new(scoring: Scoring, answer: Answer) -> Self {
        Self { scoring, answer: Some(answer) }
    }

    fn answer(&mut self, result: Result<TokenScores>) -> Turn {
        if let Some(answer) = self.answer.take() {
            answer(result);
        }
        Turn::Done
    }
}

impl Task for ScoringTask {
    fn advance(&mut self) -> Turn {
        match self.scoring.advance() {
            Ok(None) => Turn::Again,
            Ok(Some(scores)) => self.answer(Ok(scores)),
            Err(error) => self.answer(Err(error)),
        }
    }

    fn fail(&mut self, error: EngineError) {
        self.answer(Err(error));
    }

    fn awaits_first_result(&self) -> bool {
        true
    }
}
