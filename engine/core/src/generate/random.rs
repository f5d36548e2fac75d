//! Random numbers for sampling: PCG32 (O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms", XSH-RR 64/32).

/// A generator; equal seeds give equal sequences on every platform.
#[derive(Clone, Debug)]
pub(super) struct Pcg32 {
    state: u64,
}

const MULTIPLIER: u64 = 6_364_136_223_846_793_005;
/// Any odd number; this is the reference implementation's stream 54.
const INCREMENT: u64 = 54 << 1 | 1;

impl Pcg32 {
    pub fn new(seed: u64) -> Self {
        let mut generator = Self { state: 0 };
        generator.next_u32();
        generator.state = generator.state.wrapping_add(seed);
        generator.next_u32();
        generator
    }

    pub fn next_u32(&mut self) -> u32 {
        let old = self.state;
        self.state = old.wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT);
        let shifted = ((old >> 18 ^ old) >> 27) as u32;
        shifted.rotate_right((old >> 59) as u32)
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn next_f64(&mut self) -> f64 {
        let high = u64::from(self.next_u32()) >> 5;
        let low = u64::from(self.next_u32()) >> 6;
        (high << 26 | low) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::Pcg32;

    #[test]
    fn the_sequence_is_the_reference_implementations() {
        // pcg32_srandom_r(&rng, 42, 54) of the reference C library's demo.
        let mut generator = Pcg32::new(42);
        let first: Vec<u32> = (0..6).map(|_| generator.next_u32()).collect();
        assert_eq!(first, [0xa15c02b7, 0x7b47f409, 0xba1d3330, 0x83d2f293, 0xbfa4784b, 0xcbed606e]);
    }

    #[test]
    fn uniform_numbers_stay_in_range() {
        let mut generator = Pcg32::new(7);
        let mean =
            (0..10_000).map(|_| generator.next_f64()).inspect(|x| assert!((0.0..1.0).contains(x))).sum::<f64>() / 1e4;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
    }
}
