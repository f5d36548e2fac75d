//! Philox4x32-10: random numbers from a key and a counter, without a state (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy
//! as 1, 2, 3", SC 2011).

const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
/// What a round adds to the key: the golden ratio and √3 − 1, in 32 bits.
const KEY_STEPS: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
const ROUNDS: usize = 10;

/// The four words of each of `N` counters; `counters[w][i]` is word w of counter i, and so is the result. `kernels/cuda/dropout.cu` is the same.
#[inline(always)]
pub(crate) fn philox4x32_10<const N: usize>(counters: [[u32; N]; 4], key: [u32; 2]) -> [[u32; N]; 4] {
    let ([mut a, mut b, mut c, mut d], mut key) = (counters, key);
    for _ in 0..ROUNDS {
        for i in 0..N {
            let first = u64::from(MULTIPLIERS[0]) * u64::from(a[i]);
            let second = u64::from(MULTIPLIERS[1]) * u64::from(c[i]);
            (a[i], b[i]) = ((second >> 32) as u32 ^ b[i] ^ key[0], second as u32);
            (c[i], d[i]) = ((first >> 32) as u32 ^ d[i] ^ key[1], first as u32);
        }
        key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
    }
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::philox4x32_10;

    /// The known answers that Random123 publishes (`kat_vectors`, philox4x32 with 10 rounds): zeros, ones, digits of π.
    #[test]
    fn known_answers() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32_10(counter.map(|word| [word]), key), expected.map(|word| [word]));
        }
        // Counters side by side do not mix.
        let [zeros, ones, pi] = cases.map(|(counter, ..)| counter);
        let key = cases[2].1;
        let together = philox4x32_10([0, 1, 2, 3].map(|word| [zeros[word], pi[word], ones[word]]), key);
        assert_eq!(together.map(|word| word[1]), cases[2].2);
    }
}
