//! What the device thread has on its list.

use super::backend::Backend;
use crate::error::EngineError;
use crate::ops::cpu::decode::CpuDecoder;

/// The device: what tasks compute with.
pub(super) struct Machine {
    pub backend: Backend,
    pub decoder: CpuDecoder,
}

/// After a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Again,
    Done,
}

/// Something that is computed in turns.
pub(super) trait Task: Send {
    /// Does one turn. Looks first whether it was cancelled.
    fn advance(&mut self, machine: &mut Machine) -> Turn;

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
