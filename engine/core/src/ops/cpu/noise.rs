//! Uniform noise on the processor.

use super::dropout::NUMBERS;
use super::parallel::vectorized;
use crate::ops::UniformNoise;
use crate::philox::philox4x32_10;

const COUNTERS: usize = NUMBERS / 4;

vectorized! {
    /// Adds noise to a piece that begins at number `first`, a multiple of [`NUMBERS`]; see `Ops::add_noise`.
    pub(super) fn add_noise<E>(noise: &UniformNoise, first: usize, to: &mut [E]) {
        let (bound, [low, middle, high]) = (E::from_f64(noise.bound), noise.stream);
        for (run, to) in to.chunks_mut(NUMBERS).enumerate() {
            let mut blocks = [(first / 4 + run * COUNTERS) as u32; COUNTERS];
            for (index, block) in blocks.iter_mut().enumerate() {
                *block += index as u32;
            }
            let words = philox4x32_10([blocks, [low; COUNTERS], [middle; COUNTERS], [high; COUNTERS]], noise.key);
            for (at, to) in to.iter_mut().enumerate() {
                let unit = words[at % 4][at / 4] as f32 * (1.0 / (1u32 << 31) as f32) - 1.0;
                *to += E::from_f32(unit) * bound;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOISE: UniformNoise = UniformNoise { key: [7, 0], stream: [1, 0, 2], bound: 0.25 };

    fn drawn(noise: &UniformNoise, len: usize) -> Vec<f64> {
        let mut values = vec![0f64; len];
        add_noise(noise, 0, &mut values);
        values
    }

    /// One number after the other from its own counter, as the description says; a piece draws what the whole draws.
    #[test]
    fn noise_is_philoxs_words() {
        let len = 2 * NUMBERS + 21;
        let whole = drawn(&NOISE, len);
        for (i, found) in whole.iter().enumerate() {
            let words = philox4x32_10([[(i / 4) as u32], [1], [0], [2]], [7, 0]);
            let unit = words[i % 4][0] as f32 / (1u32 << 31) as f32 - 1.0;
            assert_eq!(*found, f64::from(unit) * 0.25);
        }
        let mut part = vec![0f64; len - NUMBERS];
        add_noise(&NOISE, NUMBERS, &mut part);
        assert_eq!(whole[NUMBERS..], part);
    }

    /// Mean, variance (a third of bound²), bounds, tails and independence of neighbours; four standard deviations of each are allowed.
    #[test]
    fn noise_is_uniform() {
        let len = 1 << 20;
        let values = drawn(&NOISE, len);
        let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / len as f64;
        let allowed = 4.0 / (len as f64).sqrt();
        assert!(values.iter().all(|value| (-0.25..=0.25).contains(value)));
        let first = mean(&mut values.iter().map(|value| value / 0.25));
        assert!(first.abs() < allowed * (1f64 / 3.0).sqrt(), "mean {first}");
        let second = mean(&mut values.iter().map(|value| (value / 0.25).powi(2)));
        assert!((second - 1.0 / 3.0).abs() < allowed * (4f64 / 45.0).sqrt(), "variance {second}");
        let tail = mean(&mut values.iter().map(|value| f64::from(*value > 0.2)));
        assert!((tail - 0.1).abs() < allowed * 0.3, "tail {tail}");
        let neighbours = mean(&mut values.windows(2).map(|pair| pair[0] * pair[1] / 0.0625));
        assert!(neighbours.abs() < allowed / 3.0, "neighbours {neighbours}");
    }
}
