//! The engine beside transformers' Trainer, PEFT and torch, over the golden files of `test/parity/`; and what must hold of whole runs.

mod adapters;
mod cached;
mod curve;
mod device;
mod dropout;
mod families;
mod first_group;
mod gguf;
mod golden;
mod greedy;
mod held;
mod initial;
mod loss_scale;
mod offload;
mod optimizer;
mod quantized;
#[expect(dead_code, reason = "its examples and settings are for other tests")]
#[path = "../support/random_model.rs"]
mod random_model;
mod refusals;
mod runs;
mod selected_rows;
mod trainer;
