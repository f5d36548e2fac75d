//! Checkpoints: the state of a run between two pieces of its work, in host memory ([`Snapshot`]) and on the disk ([`Checkpoint`]), from which
//! [`Trainer::resume`](super::Trainer::resume) goes on bit for bit. `docs/checkpoints.md` describes the files.
//!
//! What follows from settings and data alone is made anew: the order of examples, the schedule, and the masks of dropout and noise, which are
//! counted from the seed and the number of a micro-batch. How many blocks are recomputed and where activations wait changes no bit, and is
//! chosen anew, too.

mod data;
pub(super) mod exact;
mod files;
mod identity;
mod read;
mod settings;
mod snapshot;
mod state;
mod tensors;

pub use files::{CheckpointFile, SavedCheckpoint};
pub use identity::{ModelIdentity, ResumedFrom};
pub use read::Checkpoint;
pub use snapshot::Snapshot;

pub(super) use identity::Identity;
pub(super) use state::{Activity, Group, RunState};
pub(super) use tensors::HostTensors;
