//! What the device thread has on its list.

use crate::error::EngineError;

/// After a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Again,
    Done,
}

/// Something that is computed in turns.
pub(super) trait Task: Send {
    /// Does one turn. Looks first whether it was cancelled.
    fn advance(&mut self) -> Turn;

    /// Tells its reader that it failed outside its own code.
    fn fail(&mut self, error: EngineError);

    /// Training: long turns that leave room for others in between.
    fn is_training(&self) -> bool {
        false
    }

    /// Whether somebody still waits for its first result.
    fn awaits_first_result(&self) -> bool {
        false
    }
}
