//! Whose turn it is. The policy is in the module's description.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use super::task::{Task, Turn};
use crate::error::{EngineError, ErrorCode};

struct Waiting {
    task: Box<dyn Task>,
    /// Micro-batches computed since it came.
    micro_batches: u32,
}

/// The device thread's list.
pub(super) struct Scheduler {
    inbox: Receiver<Box<dyn Task>>,
    training: VecDeque<Box<dyn Task>>,
    others: VecDeque<Waiting>,
}

impl Scheduler {
    pub fn new(inbox: Receiver<Box<dyn Task>>) -> Self {
        Self { inbox, training: VecDeque::new(), others: VecDeque::new() }
    }

    /// Works until the inbox is closed; what is unfinished then fails with `CLOSED`.
    pub fn run(mut self) {
        // What came during a micro-batch is served right after it, not after the next one.
        while self.receive() {
            let spent = self.train();
            if !self.take_waiting() {
                break;
            }
            self.serve(spent);
        }
        for task in self.training.into_iter().chain(self.others.into_iter().map(|waiting| waiting.task)) {
            let error = EngineError::new(ErrorCode::Closed, "the engine was closed while this was running");
            drop_quietly(task, Some(error));
        }
    }

    /// Takes what has come; waits where there is nothing to do. False once the inbox is closed.
    fn receive(&mut self) -> bool {
        if self.training.is_empty() && self.others.is_empty() {
            match self.inbox.recv() {
                Ok(task) => self.add(task),
                Err(_) => return false,
            }
        }
        self.take_waiting()
    }

    /// Takes what has come. False once the inbox is closed.
    fn take_waiting(&mut self) -> bool {
        loop {
            match self.inbox.try_recv() {
                Ok(task) => self.add(task),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn add(&mut self, task: Box<dyn Task>) {
        match task.is_training() {
            true => self.training.push_back(task),
            false => self.others.push_back(Waiting { task, micro_batches: 0 }),
        }
    }

    /// One micro-batch of the next training run; returns how long it took.
    fn train(&mut self) -> Duration {
        let Some(task) = self.training.pop_front() else { return Duration::ZERO };
        let begin = Instant::now();
        self.training.extend(turn(task));
        for waiting in &mut self.others {
            waiting.micro_batches += 1;
        }
        begin.elapsed()
    }

    /// Turns of everything else: a round, and while training waits, rounds for as long as the last micro-batch took.
    fn serve(&mut self, share: Duration) {
        let begin = Instant::now();
        loop {
            for _ in 0..self.others.len() {
                let Some(Waiting { task, micro_batches }) = self.others.pop_front() else { break };
                self.others.extend(turn(task).map(|task| Waiting { task, micro_batches }));
            }
            let overdue = |waiting: &Waiting| waiting.micro_batches > 0 && waiting.task.awaits_first_result();
            let within = begin.elapsed() < share || self.others.iter().any(overdue);
            // Without training the caller comes round again at once, having looked into the inbox.
            if self.training.is_empty() || self.others.is_empty() || !within {
                return;
            }
        }
    }
}

/// One turn; gives the task back where it goes on. A panic is that task's failure.
fn turn(mut task: Box<dyn Task>) -> Option<Box<dyn Task>> {
    // A task that panicked is not touched again, except to say so; what tasks share is set anew by every turn.
    match catch_unwind(AssertUnwindSafe(|| task.advance())) {
        Ok(Turn::Again) => return Some(task),
        Ok(Turn::Done) => drop_quietly(task, None),
        Err(panic) => {
            let error = format!("the engine failed: {}; please report this", message(&*panic));
            drop_quietly(task, Some(EngineError::internal(error)));
        }
    }
    None
}

/// Frees a task, having told it its error. What breaks here is its own: nobody is left to be told, and the thread goes on.
fn drop_quietly(mut task: Box<dyn Task>, error: Option<EngineError>) {
    let _ = catch_unwind(AssertUnwindSafe(move || {
        if let Some(error) = error {
            task.fail(error);
        }
    }));
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a message")
}
