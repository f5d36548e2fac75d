//! What generation and scoring ask of a device.

use std::ops::Range;

use crate::config::ModelConfig;
use crate::error::Result;

/// Rows of logits that exist at once: enough for products at full speed, little beside a model.
pub const LOGIT_ROWS: usize = 64;

/// One sequence of tokens on a device: a base model, perhaps an adapter, and the kept keys and values. Its model and adapter are shared and
/// never changed. Making one takes no memory of the device; the first pass does.
///
/// Each call is one short piece of work and returns once it is done, so that a device thread can interleave sequences with each other and
/// with training by the clock.
pub trait Sequence: Send {
    /// The model's shape.
    fn config(&self) -> &ModelConfig;

    /// Most tokens of one [`Self::prefill`]: enough for the matrix products, few enough to stay interruptible.
    fn chunk(&self) -> usize;

    /// How many positions there will be at most. Called once, before the first token.
    fn reserve(&mut self, positions: usize);

    /// Tokens so far.
    fn len(&self) -> usize;

    /// Whether there is no token yet.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends tokens, at least one and at most [`Self::chunk`]. Products are exact.
    ///
    /// Errors: `OUT_OF_MEMORY`, with numbers, where the device has no room for the sequence, which is then of no more use; `INTERNAL` for
    /// tokens beyond what was reserved.
    fn prefill(&mut self, ids: &[u32]) -> Result<()>;

    /// Raw logits `[rows, vocab_size]` after some tokens of the last [`Self::prefill`], at most [`LOGIT_ROWS`]. Products are exact.
    fn logits(&mut self, rows: Range<usize>, logits: &mut Vec<f32>) -> Result<()>;

    /// Raw logits `[vocab_size]` after the last token of the last [`Self::prefill`], by the products of [`Self::decode`].
    fn last_logits(&mut self, logits: &mut Vec<f32>) -> Result<()>;

    /// Appends a token; `logits [vocab_size]` receives the raw logits after it. Products may round activations to 8 bits where weights are
    /// stored in so few.
    fn decode(&mut self, id: u32, logits: &mut Vec<f32>) -> Result<()>;
}
