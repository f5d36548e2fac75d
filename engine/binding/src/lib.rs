//! The engine as a Node-API addon. Conversions only: what is computed, and on which thread, is `luthier-core`'s.
//!
//! Promises reject with an `Error` whose `cause.message` is the engine's error code. `src/engine/native.ts` is the only caller.

// A test build registers no exports: every exported function would count as unused.
#![cfg_attr(test, allow(dead_code))]

mod adapter;
mod dto;
mod engine;
mod estimate;
mod examples;
mod generation;
mod gpus;
mod model;
mod promise;
mod quantization;
mod tokenizer;
mod training;
