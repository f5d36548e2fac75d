//! Generation and scoring: sessions over a shared base model, samplers, log-probabilities. Ids and numbers only.

mod logits;
mod random;
mod sampling;
mod score;
mod session;

pub use sampling::{Sampler, SamplingConfig};
pub use score::{Scoring, TokenScores};
pub use session::{FinishReason, GeneratedToken, Progress, Session};
