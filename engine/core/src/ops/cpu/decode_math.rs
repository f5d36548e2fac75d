//! Element-wise functions of decoding, written once and compiled for AVX2 and FMA as well.

/// e^x for f32; relative error below 2e-7 where the result is a normal number. Values below about -87 give 0.
///
/// x = n ln 2 + r with |r| ≤ ln 2 / 2; e^r by the polynomial of Cephes' `expf`; 2^n by the exponent bits.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // The bounds keep 2^n a normal number; a NaN passes through `clamp`.
    let x_bounded = x.clamp(-87.0, 88.0);
    let n = (x_bounded * std::f32::consts::LOG2_E).round_ties_even();
    let r = (-n).mul_add(LN_2_LOW, (-n).mul_add(LN_2_HIGH, x_bounded));
    let p = 1.987_569_1e-4f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 0.166_666_65);
    let p = p.mul_add(r, 0.5);
    let e_r = p.mul_add(r * r, r) + 1.0;
    let power = f32::from_bits(((n as i32 + 127) << 23) as u32);
    if x < -87.0 { 0.0 } else { e_r * power }
}

macro_rules! with_avx2 {
    ($(#[$doc:meta])* $visibility:vis fn $name:ident($($argument:ident: $kind:ty),*) $(-> $output:ty)? $body:block) => {
        $(#[$doc])*
        $visibility fn $name($($argument: $kind),*) $(-> $output)? {
            #[inline(always)]
            fn portable($($argument: $kind),*) $(-> $output)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($argument: $kind),*) $(-> $output)? {
                portable($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the processor has both features.
                return unsafe { avx2($($argument),*) };
            }
            portable($($argument),*)
        }
    };
}

with_avx2! {
    /// `gate = silu(gate) * up`, silu(x) = x / (1 + e^-x).
    pub(super) fn silu_multiply(gate: &mut [f32], up: &[f32]) {
        for (gate, up) in gate.iter_mut().zip(up) {
            *gate = *gate / (1.0 + exp(-*gate)) * up;
        }
    }
}

with_avx2! {
    /// `out += factor * x`.
    pub(super) fn add_scaled(out: &mut [f32], factor: f32, x: &[f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = factor.mul_add(*x, *out);
        }
    }
}

with_avx2! {
    /// `out += Σ weights[i] * rows[i]`, in the order of the rows; `rows` is `[weights.len(), out.len()]`.
    pub(super) fn add_weighted_rows(out: &mut [f32], weights: &[f32], rows: &[f32]) {
        // Four registers of eight sums stay in place while the rows pass by.
        const WIDTH: usize = 32;
        let length = out.len();
        let (wide, rest) = out.as_chunks_mut::<WIDTH>();
        for (index, sums) in wide.iter_mut().enumerate() {
            let mut held = *sums;
            for (weight, row) in weights.iter().zip(rows.chunks_exact(length)) {
                for (sum, x) in held.iter_mut().zip(&row[index * WIDTH..(index + 1) * WIDTH]) {
                    *sum = weight.mul_add(*x, *sum);
                }
            }
            *sums = held;
        }
        let start = length - rest.len();
        for (weight, row) in weights.iter().zip(rows.chunks_exact(length)) {
            for (sum, x) in rest.iter_mut().zip(&row[start..]) {
                *sum = weight.mul_add(*x, *sum);
            }
        }
    }
}

with_avx2! {
    /// Softmax in place. Returns nothing for an empty slice.
    pub(super) fn softmax(scores: &mut [f32]) {
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut lanes = [0f32; 8];
        for chunk in scores.chunks_mut(8) {
            for (score, lane) in chunk.iter_mut().zip(&mut lanes) {
                *score = exp(*score - largest);
                *lane += *score;
            }
        }
        let total: f32 = lanes.iter().sum();
        let factor = 1.0 / total;
        for score in scores.iter_mut() {
            *score *= factor;
        }
    }
}

with_avx2! {
    /// `out = x / sqrt(mean(x²) + epsilon) * weight`: RMSNorm of one vector.
    pub(super) fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
        let mut lanes = [0f32; 16];
        for chunk in x.chunks(16) {
            for (x, lane) in chunk.iter().zip(&mut lanes) {
                *lane = x.mul_add(*x, *lane);
            }
        }
        let factor = 1.0 / (lanes.iter().sum::<f32>() / x.len() as f32 + epsilon).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * factor * weight;
        }
    }
}

with_avx2! {
    /// Rotates the two halves of the first numbers of one head, two for each angle: `(a, b) -> (a cos - b sin, b cos + a sin)`.
    pub(super) fn rotate(head: &mut [f32], cosines: &[f32], sines: &[f32]) {
        let (first, second) = head[..2 * cosines.len()].split_at_mut(cosines.len());
        for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
            let (x, y) = (*a, *b);
            *a = x * cos - y * sin;
            *b = y * cos + x * sin;
        }
    }
}

with_avx2! {
    /// As [`rotate`], neighbours instead of halves.
    pub(super) fn rotate_interleaved(head: &mut [f32], cosines: &[f32], sines: &[f32]) {
        for ((pair, cos), sin) in head.chunks_exact_mut(2).zip(cosines).zip(sines) {
            let (x, y) = (pair[0], pair[1]);
            pair[0] = x * cos - y * sin;
            pair[1] = y * cos + x * sin;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_a_few_units_of_the_exact_value() {
        let mut worst = 0f64;
        for i in -86_000..88_000 {
            let x = i as f32 / 1000.0;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 2e-7, "{worst:e}");
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn weighted_rows_are_summed_for_every_width() {
        for width in [1, 8, 31, 32, 64, 70] {
            let rows: Vec<f32> = (0..3 * width).map(|i| (i * 7 % 11) as f32).collect();
            let mut out = vec![1.0; width];
            add_weighted_rows(&mut out, &[1.0, 0.5, 2.0], &rows);
            for (i, out) in out.iter().enumerate() {
                assert_eq!(*out, 1.0 + rows[i] + 0.5 * rows[width + i] + 2.0 * rows[2 * width + i], "{width} {i}");
            }
        }
    }

    #[test]
    fn softmax_sums_to_one_and_keeps_ratios() {
        let mut scores: Vec<f32> = (0..37).map(|i| i as f32 * 0.1).collect();
        softmax(&mut scores);
        assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((scores[1] / scores[0] - 0.1f32.exp()).abs() < 1e-6);
    }
}
