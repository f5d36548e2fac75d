//! What says that two runs have the same examples.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::load::hex;
use crate::model::Examples;

/// Examples by number, size and content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataIdentity {
    pub examples: u64,
    pub tokens: u64,
    /// Of each example in order: its tokens' number as u64, their ids as u32, their labels as i32, all little-endian. Lower-case hex.
    pub sha256: String,
}

impl DataIdentity {
    /// Reads every example.
    pub fn of(examples: &dyn Examples) -> Self {
        let (mut hash, mut tokens) = (Sha256::new(), 0);
        for index in 0..examples.len() {
            let (ids, labels) = examples.example(index);
            tokens += ids.len() as u64;
            hash.update((ids.len() as u64).to_le_bytes());
            update(&mut hash, ids, |id| id.to_le_bytes());
            update(&mut hash, labels, |label| label.to_le_bytes());
        }
        Self { examples: examples.len() as u64, tokens, sha256: hex(&hash.finalize()) }
    }

    /// For people.
    pub fn describe(&self) -> String {
        format!("{} examples with {} tokens, SHA-256 {}", self.examples, self.tokens, self.sha256)
    }
}

/// Adds numbers, many at once.
fn update<T: Copy>(hash: &mut Sha256, numbers: &[T], bytes: impl Fn(T) -> [u8; 4]) {
    let mut buffer = [[0; 4]; 1024];
    for numbers in numbers.chunks(buffer.len()) {
        for (place, number) in buffer.iter_mut().zip(numbers) {
            *place = bytes(*number);
        }
        hash.update(buffer[..numbers.len()].as_flattened());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TokenExamples;

    /// `hashlib.sha256(struct.pack('<Q2I2iQ1I1i', 2, 5, 6, -100, 6, 1, 7, 7)).hexdigest()`, and no two that differ are alike.
    #[test]
    fn the_hash_is_of_lengths_ids_and_labels() {
        let examples = |ids: [u32; 3], labels: [i32; 3], middle: u32| {
            let offsets = vec![0, middle, 3];
            DataIdentity::of(&TokenExamples { input_ids: ids.into(), labels: labels.into(), offsets })
        };
        let one = examples([5, 6, 7], [-100, 6, 7], 2);
        assert_eq!(one.sha256, "caa93051d68c90583bbb43e85641e90a01e64f6f016be022aade291e94b3349d");
        assert_eq!((one.examples, one.tokens), (2, 3));
        for other in [
            examples([5, 6, 8], [-100, 6, 7], 2),
            examples([5, 6, 7], [-100, 6, -100], 2),
            examples([5, 6, 7], [-100, 6, 7], 1),
        ] {
            assert_ne!(one.sha256, other.sha256);
        }
        let long: Vec<u32> = (0..5000).collect();
        let whole = |ids: &[u32]| {
            let labels = ids.iter().map(|id| *id as i32).collect();
            DataIdentity::of(&TokenExamples { input_ids: ids.to_vec(), labels, offsets: vec![0, ids.len() as u32] })
        };
        let mut changed = long.clone();
        changed[4999] = 7;
        assert_ne!(whole(&long).sha256, whole(&changed).sha256);
    }
}
