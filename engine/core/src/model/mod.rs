//! The decoder: where its tensors come from, its weights, its forward and backward passes.

pub mod source;

pub use source::TensorSource;
