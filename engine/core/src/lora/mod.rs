//! Low-rank adapters.

pub mod peft;
