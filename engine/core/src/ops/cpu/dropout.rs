//! Dropout on the processor.

use super::parallel::vectorized;
use crate::ops::DropoutMask;
use crate::philox::philox4x32_10;

/// Counters that are worked on side by side.
const COUNTERS: usize = 16;
/// Numbers of that many counters.
pub(super) const NUMBERS: usize = 4 * COUNTERS;

vectorized! {
    /// `out = x ∘ mask / (1 − p)`, or that added to `out`, for a piece that begins at number `first`, a multiple of [`NUMBERS`].
    pub(super) fn dropout<E>(mask: &DropoutMask, first: usize, x: &[E], accumulate: bool, out: &mut [E]) {
        let (threshold, scale) = (mask.threshold(), E::from_f64(mask.scale()));
        let [low, middle, high] = mask.stream;
        for (run, (x, out)) in x.chunks(NUMBERS).zip(out.chunks_mut(NUMBERS)).enumerate() {
            let mut blocks = [(first / 4 + run * COUNTERS) as u32; COUNTERS];
            for (index, block) in blocks.iter_mut().enumerate() {
                *block += index as u32;
            }
            let words = philox4x32_10([blocks, [low; COUNTERS], [middle; COUNTERS], [high; COUNTERS]], mask.key);
            for (at, (x, out)) in x.iter().zip(out).enumerate() {
                let value = if words[at % 4][at / 4] >= threshold { *x * scale } else { E::ZERO };
                *out = if accumulate { *out + value } else { value };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: DropoutMask = DropoutMask { key: [7, 0], stream: [1, 0, 2], probability: 0.25 };

    fn drawn(mask: &DropoutMask, len: usize) -> Vec<bool> {
        let mut out = vec![f32::NAN; len];
        dropout(mask, 0, &vec![1.0f32; len], false, &mut out);
        out.iter().map(|value| *value != 0.0).collect()
    }

    /// One number after the other from its own counter, as the mask's description says.
    #[test]
    fn masks_are_philoxs_words() {
        let len = 3 * NUMBERS + 21;
        let expected = (0..len).map(|i| {
            let words = philox4x32_10([[(i / 4) as u32], [1], [0], [2]], [7, 0]);
            words[i % 4][0] >= 1 << 30
        });
        assert!(drawn(&MASK, len).into_iter().eq(expected));
        // Zeros for key and counter: the first words of the known answers, of which only the last two are above 0.7 · 2³² = 0xb333….
        let zeros = DropoutMask { key: [0; 2], stream: [0; 3], probability: 0.7 };
        assert_eq!(drawn(&zeros, 4), [false, true, true, false]);
    }

    #[test]
    fn a_piece_draws_what_the_whole_draws() {
        let x: Vec<f64> = (0..5 * NUMBERS + 3).map(|i| i as f64 - 100.5).collect();
        let mut whole = vec![f64::NAN; x.len()];
        dropout(&MASK, 0, &x, false, &mut whole);
        let mut part = vec![f64::NAN; x.len() - 2 * NUMBERS];
        dropout(&MASK, 2 * NUMBERS, &x[2 * NUMBERS..], false, &mut part);
        assert_eq!(whole[2 * NUMBERS..], part);
        for (x, out) in x.iter().zip(&whole) {
            assert!(*out == 0.0 || *out == x * (1.0 / 0.75));
        }
        let mut added = vec![3.0; x.len()];
        dropout(&MASK, 0, &x, true, &mut added);
        assert!(added.iter().zip(&whole).all(|(added, value)| *added == 3.0 + value));
    }

    /// With so many numbers, four standard deviations are 0.18 %.
    #[test]
    fn rates_and_independence() {
        let len = 1 << 20;
        let share = |count: usize| count as f64 / len as f64;
        for probability in [0.0, 0.05, 0.5, 0.9] {
            let mask = DropoutMask { probability, ..MASK };
            let kept = drawn(&mask, len).iter().filter(|kept| **kept).count();
            assert!((share(kept) - (1.0 - probability)).abs() < 2e-3, "{kept} of {len} kept at {probability}");
            let mut out = vec![0f64; len];
            dropout(&mask, 0, &vec![1.0; len], false, &mut out);
            let mean = out.iter().sum::<f64>() / len as f64;
            assert!((mean - 1.0).abs() < 2e-3 / (1.0 - probability), "the mean of ones is {mean} at {probability}");
        }
        // Any two of these agree as often as coins do; with itself, shifted by one number, a mask does too.
        let even = DropoutMask { probability: 0.5, ..MASK };
        let others = [
            DropoutMask { key: [8, 0], ..even },
            DropoutMask { key: [7, 1], ..even },
            DropoutMask { stream: [2, 0, 2], ..even },
            DropoutMask { stream: [1, 1, 2], ..even },
            DropoutMask { stream: [1, 0, 3], ..even },
        ];
        let mine = drawn(&even, len);
        let agreement = |a: &[bool], b: &[bool]| share(a.iter().zip(b).filter(|(a, b)| a == b).count());
        for other in others {
            let found = agreement(&mine, &drawn(&other, len));
            assert!((found - 0.5).abs() < 2e-3, "{found} of {other:?} agrees");
        }
        let found = agreement(&mine[1..], &mine[..len - 1]);
        assert!((found - 0.5).abs() < 2e-3, "{found} of neighbours agree");
    }

    #[test]
    fn nearly_everything_dropped_is_no_overflow() {
        let mask = DropoutMask { probability: 1.0f64.next_down(), ..MASK };
        assert_eq!(mask.threshold(), u32::MAX);
        assert!(drawn(&mask, 1000).iter().all(|kept| !kept));
        assert!(DropoutMask { probability: 1.0, ..MASK }.check(1).is_err());
        assert!(MASK.check((1 << 34) + 1).is_err() && MASK.check(1 << 34).is_ok());
    }
}
