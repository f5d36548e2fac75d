//! Generation and scoring: sessions over a shared base model, samplers, log-probabilities. Ids and numbers only.

mod cpu_sequence;
mod logits;
mod ops_sequence;
mod random;
mod sampling;
mod score;
mod sequence;
mod session;

pub use cpu_sequence::CpuSequence;
pub use ops_sequence::{OpsModel, OpsSequence};
pub use sampling::{Sampler, SamplingConfig};
pub use score::{Scoring, TokenScores};
pub use sequence::{LOGIT_ROWS, Sequence};
pub use session::{FinishReason, GeneratedToken, Progress, Session};
