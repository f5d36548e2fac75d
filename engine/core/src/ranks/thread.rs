//! The threads that ranks compute on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::error::{EngineError, ErrorCode, Result};

type Work = Box<dyn FnOnce() + Send>;

/// The one thread that everything on a device is done by, besides the first rank's, which is the caller's.
pub struct RankThread {
    /// Gone once closed.
    queue: Mutex<Option<Sender<Work>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl RankThread {
    /// Starts the thread of a device, such as `cuda:1`.
    ///
    /// Errors: `INTERNAL` where the system refuses.
    pub fn start(device: &str) -> Result<Self> {
        let (queue, work) = channel::<Work>();
        let thread = std::thread::Builder::new()
            .name(format!("luthier-{device}"))
            .spawn(move || {
                for work in work {
                    // Whoever asked for it waits no longer than a deadline.
                    let _ = catch_unwind(AssertUnwindSafe(work));
                }
            })
            .map_err(|error| EngineError::internal(format!("cannot start the thread of {device}: {error}")))?;
        Ok(Self { queue: Mutex::new(Some(queue)), thread: Mutex::new(Some(thread)) })
    }

    /// Does `work` after all that was asked for before.
    ///
    /// Errors: `CLOSED` where the thread has ended.
    pub fn run(&self, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = queue.as_ref().is_some_and(|queue| queue.send(Box::new(work)).is_ok());
        let closed = || EngineError::new(ErrorCode::Closed, "a device's thread has ended; open a new engine");
        if sent { Ok(()) } else { Err(closed()) }
    }

    /// Ends the thread after what was asked for. Idempotent.
    pub fn close(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The thread itself may be the one that drops the last reference to it; it ends by itself.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            // What panics in it is caught.
            let _ = thread.join();
        }
    }
}

impl Drop for RankThread {
    fn drop(&mut self) {
        self.close();
    }
}
