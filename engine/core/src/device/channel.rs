//! What a run tells, from the device thread to whoever reads: batches, pulled; a slow reader holds nobody up.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{EngineError, ErrorCode, Result};

/// Everything that arrived since the last batch.
#[derive(Debug)]
pub struct Batch<T> {
    pub items: Vec<T>,
    /// Set on the last batch: how the run ended.
    pub end: Option<Result<()>>,
}

type Waiter<T> = Box<dyn FnOnce(Batch<T>) + Send>;

struct State<T> {
    items: Vec<T>,
    end: Option<Result<()>>,
    waiter: Option<Waiter<T>>,
}

/// The reading side.
pub struct Events<T>(Arc<Mutex<State<T>>>);

/// The writing side. Dropping it before the end tells the reader that the device closed.
pub(super) struct Teller<T>(Arc<Mutex<State<T>>>);

fn lock<T>(state: &Mutex<State<T>>) -> MutexGuard<'_, State<T>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A new pair.
pub(super) fn channel<T>() -> (Teller<T>, Events<T>) {
    let state = Arc::new(Mutex::new(State { items: Vec::new(), end: None, waiter: None }));
    (Teller(state.clone()), Events(state))
}

impl<T> Events<T> {
    /// Calls `waiter` with the next batch: at once where something is there, else from the device thread. One reader at a time: a second
    /// call before the first is answered gets an `INTERNAL` error as its end.
    pub fn next(&self, waiter: impl FnOnce(Batch<T>) + Send + 'static) {
        let mut state = lock(&self.0);
        if state.waiter.is_some() {
            drop(state);
            let end = Some(Err(EngineError::internal("two readers at once; read a run from one place")));
            return waiter(Batch { items: Vec::new(), end });
        }
        if state.items.is_empty() && state.end.is_none() {
            state.waiter = Some(Box::new(waiter));
            return;
        }
        let batch = Batch { items: std::mem::take(&mut state.items), end: state.end.clone() };
        drop(state);
        waiter(batch);
    }
}

impl<T> Teller<T> {
    /// Tells something; lost after the end.
    pub fn tell(&self, item: T) {
        let mut state = lock(&self.0);
        if state.end.is_some() {
            return;
        }
        state.items.push(item);
        Self::wake(state);
    }

    /// Tells the last thing, and that it ended well.
    pub fn finish(&self, item: T) {
        let mut state = lock(&self.0);
        if state.end.is_none() {
            state.items.push(item);
            state.end = Some(Ok(()));
            Self::wake(state);
        }
    }

    /// Tells how it ended; only the first call counts.
    pub fn end(&self, end: Result<()>) {
        let mut state = lock(&self.0);
        if state.end.is_none() {
            state.end = Some(end);
            Self::wake(state);
        }
    }

    fn wake(mut state: MutexGuard<'_, State<T>>) {
        if let Some(waiter) = state.waiter.take() {
            let batch = Batch { items: std::mem::take(&mut state.items), end: state.end.clone() };
            // A reader may ask for more from inside its waiter.
            drop(state);
            waiter(batch);
        }
    }
}

impl<T> Drop for Teller<T> {
    fn drop(&mut self) {
        self.end(Err(EngineError::new(ErrorCode::Closed, "the engine was closed while this was running")));
    }
}
