//! Generation as a task.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::channel::{Events, Teller};
use super::task::{Task, Turn};
use crate::error::EngineError;
use crate::generate::{FinishReason, GeneratedToken, Progress, Session};

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenerationEnd {
    /// The last token is an end-of-sequence id.
    Eos,
    Length,
    Cancelled,
}

/// A generation under way: each token, with the end beside the last one. Dropping it cancels.
pub struct GenerationRun {
    pub events: Events<(Option<GeneratedToken>, Option<GenerationEnd>)>,
    cancelled: Arc<AtomicBool>,
}

impl GenerationRun {
    /// Stops computing within one turn. Idempotent.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

impl Drop for GenerationRun {
    fn drop(&mut self) {
        self.cancel();
    }
}

pub(super) struct GenerationTask {
    session: Session,
    cancelled: Arc<AtomicBool>,
    teller: Teller<(Option<GeneratedToken>, Option<GenerationEnd>)>,
}

impl GenerationTask {
    /// A task and its reading side.
    pub fn new(session: Session) -> (Self, GenerationRun) {
        let (teller, events) = super::channel::channel();
        let cancelled = Arc::new(AtomicBool::new(false));
        (Self { session, cancelled: cancelled.clone(), teller }, GenerationRun { events, cancelled })
    }
}

impl Task for GenerationTask {
    fn advance(&mut self) -> Turn {
        if self.cancelled.load(Ordering::Relaxed) {
            self.teller.finish((None, Some(GenerationEnd::Cancelled)));
            return Turn::Done;
        }
        match self.session.advance() {
            Ok(Progress::Prefill { .. }) => Turn::Again,
            Ok(Progress::Token { token, finish: None }) => {
                self.teller.tell((Some(token), None));
                Turn::Again
            }
            Ok(Progress::Token { token, finish: Some(reason) }) => {
                let end = match reason {
                    FinishReason::Eos => GenerationEnd::Eos,
                    FinishReason::Length => GenerationEnd::Length,
                };
                self.teller.finish((Some(token), Some(end)));
                Turn::Done
            }
            Ok(Progress::Finished) => Turn::Done,
            Err(error) => {
                self.teller.end(Err(error));
                Turn::Done
            }
        }
    }

    fn fail(&mut self, error: EngineError) {
        self.teller.end(Err(error));
    }

    fn awaits_first_result(&self) -> bool {
        self.session.generated() == 0
    }
}
