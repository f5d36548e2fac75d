//! Dropout masks that are drawn where they are needed and never stored.

use crate::error::{EngineError, Result};

/// Which numbers of an array are dropped. Number i is dropped where word `i % 4` of Philox4x32-10 at the counter
/// `[i / 4, stream[0], stream[1], stream[2]]` is below `probability · 2³²`. So a mask depends on nothing but this, and every device draws the
/// same one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DropoutMask {
    pub key: [u32; 2],
    pub stream: [u32; 3],
    /// In [0, 1).
    pub probability: f64,
}

/// Numbers that 32 bits of a counter tell apart, four to each.
const MOST_NUMBERS: u64 = 1 << 34;

impl DropoutMask {
    /// Words below it drop their numbers.
    pub(crate) fn threshold(self) -> u32 {
        // Saturates just below 1.
        (self.probability * (1u64 << 32) as f64).round() as u32
    }

    /// What kept numbers are multiplied by: 1 / (1 − probability), so that the expected value stays.
    pub(crate) fn scale(self) -> f64 {
        1.0 / (1.0 - self.probability)
    }

    /// `INTERNAL` where an array of `len` numbers is longer than the counter reaches, or the probability none.
    pub(crate) fn check(self, len: usize) -> Result<()> {
        if len as u64 > MOST_NUMBERS || !(0.0..1.0).contains(&self.probability) {
            return Err(EngineError::internal(format!("dropout of {len} numbers with {self:?}")));
        }
        Ok(())
    }
}
