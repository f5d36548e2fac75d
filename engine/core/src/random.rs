//! torch's random numbers on the CPU: mt19937 and what it makes of it.

/// Matsumoto and Nishimura's MT19937, seeded as torch's `manual_seed`.
#[derive(Clone)]
pub struct MersenneTwister {
    state: [u32; LENGTH],
    next: usize,
}

const LENGTH: usize = 624;
const MIDDLE: usize = 397;

impl MersenneTwister {
    /// A generator. Of the seed the lower 32 bits count, as in torch.
    pub fn new(seed: u64) -> Self {
        let mut state = [0u32; LENGTH];
        state[0] = seed as u32;
        for i in 1..LENGTH {
            let before = state[i - 1];
            state[i] = 1_812_433_253u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(i as u32);
        }
        Self { state, next: LENGTH }
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == LENGTH {
            for i in 0..LENGTH {
                let joined = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % LENGTH] & 0x7fff_ffff);
                let twist = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + MIDDLE) % LENGTH] ^ (joined >> 1) ^ twist;
            }
            self.next = 0;
        }
        let mut bits = self.state[self.next];
        self.next += 1;
        bits ^= bits >> 11;
        bits ^= (bits << 7) & 0x9d2c_5680;
        bits ^= (bits << 15) & 0xefc6_0000;
        bits ^ (bits >> 18)
    }

    /// A float as `tensor.uniform_(-bound, bound)` draws it: 24 bits, scaled in f32 with one rounding, as torch's kernels for AVX2 and up.
    pub fn uniform_f32(&mut self, bound: f32) -> f32 {
        let unit = (self.next_u32() & ((1 << 24) - 1)) as f32 * (1.0 / (1u32 << 24) as f32);
        unit.mul_add(bound - -bound, -bound)
    }

    /// A permutation of `0..len` as `torch.randperm`.
    pub fn permutation(&mut self, len: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..len as u32).collect();
        for i in 0..len.saturating_sub(1) {
            let other = self.next_u32() as usize % (len - i);
            order.swap(i, i + other);
        }
        order
    }
}
