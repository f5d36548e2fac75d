//! Luthier's engine: readers, a config-driven decoder with hand-written backward passes, LoRA training and generation.
//!
//! It knows ids and numbers only: nothing of text, prompts, gRPC, jobs or Node.

pub mod checkpoint;
pub mod config;
pub mod device;
pub mod error;
pub mod generate;
pub mod gpus;
pub mod load;
pub mod lora;
pub mod merge;
pub mod model;
pub mod ops;
mod philox;
pub mod quant;
pub mod quantize;
pub mod random;
pub mod ranks;
mod system;
pub mod tensor;
pub mod train;

pub use config::ModelConfig;
pub use error::{EngineError, ErrorCode, Result};
pub use quant::WeightStorage;
pub use tensor::{HostTensor, StoredType, TensorBytes};
