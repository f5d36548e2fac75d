//! Copies between a buffer and the host beside the computation, and what operations on the buffer wait for.

use std::sync::{Mutex, PoisonError};

use luthier_kernels::Event;

use super::memory::Memory;
use crate::error::Result;

/// Which way a copy goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To the host: the buffer may be read meanwhile.
    Out,
    /// From the host.
    In,
}

/// The last copy of a buffer.
pub(super) struct Transfer {
    done: Event,
    /// None: later operations follow it already.
    pending: Mutex<Option<Way>>,
}

impl Transfer {
    /// Before the first copy.
    pub fn new(memory: &Memory) -> Result<Self> {
        Ok(Self { done: Event::new(&memory.stream)?, pending: Mutex::default() })
    }

    /// Puts off the operations that follow, which read the buffer or write to it, where the last copy could disturb them or they it.
    pub fn follow(&self, memory: &Memory, writing: bool) -> Result<()> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if *pending == Some(Way::In) || (writing && pending.is_some()) {
            memory.stream.wait(&self.done)?;
            *pending = None;
        }
        Ok(())
    }

    /// Starts a copy with `start`, on the stream of copies: after the operations so far, and after all copies so far.
    pub fn begin(&self, memory: &Memory, way: Way, start: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        memory.stream.record(&memory.so_far)?;
        memory.copies.wait(&memory.so_far)?;
        start()?;
        memory.copies.record(&self.done)?;
        *pending = Some(way);
        Ok(())
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        // The buffer's memory goes next. An error here is one of earlier work, which its own call reports.
        let _ = self.done.synchronize();
    }
}
