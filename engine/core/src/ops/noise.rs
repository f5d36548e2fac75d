//! Uniform noise that is drawn where it is needed and never stored.

use crate::error::{EngineError, Result};

/// Numbers in [−bound, bound). Number i of an array is drawn by word `i % 4` of Philox4x32-10 at the counter
/// `[i / 4, stream[0], stream[1], stream[2]]`: word · 2⁻³¹ − 1, rounded to f32, times the bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UniformNoise {
    pub key: [u32; 2],
    pub stream: [u32; 3],
    /// Finite.
    pub bound: f64,
}

/// Numbers that 32 bits of a counter tell apart, four to each.
const MOST_NUMBERS: u64 = 1 << 34;

impl UniformNoise {
    /// `INTERNAL` where an array of `len` numbers is longer than the counter reaches, or the bound none.
    pub(crate) fn check(self, len: usize) -> Result<()> {
        if len as u64 > MOST_NUMBERS || !self.bound.is_finite() {
            return Err(EngineError::internal(format!("noise for {len} numbers with {self:?}")));
        }
        Ok(())
    }
}
