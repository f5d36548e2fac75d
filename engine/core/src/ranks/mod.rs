//! What the ranks of a run do together. A rank is a device with its own copy of the base model and its own share of every step; the ranks of
//! a run take the same steps, and decide alike because they decide by the same numbers.
//!
//! [`Rendezvous`] is where ranks meet on the host, [`Collective`] what they do with gradients on their devices. Both know nothing of training.

mod collective;
mod local;
mod rendezvous;
mod shared_memory;
mod thread;

pub use collective::{Collective, Connect};
pub use local::LocalRendezvous;
pub use rendezvous::{DEADLINE, Rendezvous};
pub use shared_memory::shared_memory;
pub use thread::RankThread;
