//! Operations of the devices.

pub mod cpu;
