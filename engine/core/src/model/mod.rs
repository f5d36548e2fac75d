//! The decoder: where its tensors come from, its weights, its forward and backward passes.

mod activations;
mod batch;
mod block;
mod block_backward;
mod cached;
mod decoder;
mod dropout;
mod forms;
mod head;
mod linear;
mod logits;
mod low_rank;
mod low_rank_dropout;
mod normalized;
mod parked;
mod rope;
pub mod source;
mod streams;
mod weights;

pub use activations::{Activations, Scratch};
pub(crate) use activations::{activation_bytes, dropout_bytes, scratch_bytes};
pub use batch::{IGNORED_LABEL, PackedBatch, TokenExamples};
pub(crate) use batch::{batch_bytes, most_together};
pub use cached::{KeyValueCache, StepMemory};
pub use decoder::Decoder;
pub use dropout::Dropout;
pub use forms::WeightForms;
pub use head::HeadScratch;
pub(crate) use head::head_bytes;
pub use linear::{INPUT_GROUPS, InputGroup, LINEAR_MODULES, LinearModule};
pub use logits::LogitsMemory;
pub use rope::rope_angles;
pub(crate) use rope::{rope_angle_count, rope_frequencies};
pub use source::TensorSource;
pub use streams::{Keep, StreamPlaces};
pub use weights::{BaseModel, LayerWeights, Linear};
