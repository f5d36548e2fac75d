//! The decoder: where its tensors come from, its weights, its forward and backward passes.

mod activations;
mod batch;
mod block;
mod block_backward;
mod cached;
mod decoder;
mod dropout;
mod head;
mod linear;
mod logits;
mod low_rank;
mod low_rank_dropout;
mod parked;
pub mod source;
mod streams;
mod weights;

pub use activations::{Activations, Keep, Scratch};
pub use batch::{IGNORED_LABEL, PackedBatch, TokenExamples};
pub use cached::{KeyValueCache, StepMemory};
pub use decoder::{Decoder, rope_angles};
pub use dropout::Dropout;
pub use head::HeadScratch;
pub use linear::{INPUT_GROUPS, InputGroup, LINEAR_MODULES, LinearModule};
pub use logits::LogitsMemory;
pub use source::TensorSource;
pub use streams::StreamPlaces;
pub use weights::{BaseModel, LayerWeights, Linear};
