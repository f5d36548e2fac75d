//! Functions of one row or one run of numbers: norms, rope, the gated activation, softmax, cross-entropy, AdamW.

use super::parallel::vectorized;
use super::real::Real;

/// Partial sums that the compiler keeps in vector registers.
const LANES: usize = 16;

/// Σ of `term(i)` for i in `0..len`, in lanes.
#[inline(always)]
fn lane_sum<E: Real>(len: usize, term: impl Fn(usize) -> E) -> E {
    let mut lanes = [E::ZERO; LANES];
    let whole = len / LANES * LANES;
    for base in (0..whole).step_by(LANES) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(base + lane);
        }
    }
    for i in whole..len {
        lanes[i - whole] += term(i);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            let other = lanes[lane + width];
            lanes[lane] += other;
        }
        width /= 2;
    }
    lanes[0]
}

vectorized! {
    /// `out = x · r · weight`; returns r = 1 / √(mean(x²) + epsilon).
    pub(super) fn rms_norm<E>(x: &[E], weight: &[E], epsilon: E, out: &mut [E]) -> E {
        let mean = lane_sum(x.len(), |i| x[i] * x[i]) / E::from_f64(x.len() as f64);
        let factor = E::ONE / (mean + epsilon).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = *x * factor * *weight;
        }
        factor
    }
}

vectorized! {
    /// Adds r·(w∘g) − x·r³/width·Σ(w∘g∘x) to `input_grad`; `normed`, unless empty, becomes x·r·w.
    pub(super) fn rms_norm_backward<E>(
        x: &[E],
        weight: &[E],
        factor: E,
        output_grad: &[E],
        input_grad: &mut [E],
        normed: &mut [E]
    ) {
        let (weight, output_grad) = (&weight[..x.len()], &output_grad[..x.len()]);
        let dot = lane_sum(x.len(), |i| weight[i] * output_grad[i] * x[i]);
        let pull = -(dot * factor * factor * factor / E::from_f64(x.len() as f64));
        for (((input_grad, x), weight), output_grad) in input_grad.iter_mut().zip(x).zip(weight).zip(output_grad) {
            *input_grad += (*weight * *output_grad).fused(factor, *x * pull);
        }
        for ((normed, x), weight) in normed.iter_mut().zip(x).zip(weight) {
            *normed = *x * factor * *weight;
        }
    }
}

vectorized! {
    /// Rotates the first numbers of each head in `row`, as many as there are `angles` (cosines, then sines), by halves; `sign` −1 turns back.
    pub(super) fn rotate<E>(row: &mut [E], head_dim: usize, angles: &[E], sign: E) {
        let half = angles.len() / 2;
        let (cosines, sines) = angles.split_at(half);
        for head in row.chunks_exact_mut(head_dim) {
            let (first, second) = head[..2 * half].split_at_mut(half);
            for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
                let (x, y, sin) = (*a, *b, *sin * sign);
                *a = x * *cos - y * sin;
                *b = y * *cos + x * sin;
            }
        }
    }
}

vectorized! {
    /// As [`rotate`], neighbours instead of halves.
    pub(super) fn rotate_interleaved<E>(row: &mut [E], head_dim: usize, angles: &[E], sign: E) {
        let half = angles.len() / 2;
        let (cosines, sines) = angles.split_at(half);
        for head in row.chunks_exact_mut(head_dim) {
            for ((pair, cos), sin) in head.chunks_exact_mut(2).zip(cosines).zip(sines) {
                let (x, y, sin) = (pair[0], pair[1], *sin * sign);
                pair[0] = x * *cos - y * sin;
                pair[1] = y * *cos + x * sin;
            }
        }
    }
}

vectorized! {
    /// `values[i] += start + step · i`
    pub(super) fn add_ramp<E>(values: &mut [E], start: E, step: E) {
        for (i, value) in values.iter_mut().enumerate() {
            *value += step.fused(E::from_f64(i as f64), start);
        }
    }
}

vectorized! {
    /// `out = gate / (1 + e^−gate) · up`
    pub(super) fn swiglu<E>(gate: &[E], up: &[E], out: &mut [E]) {
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = *gate / (E::ONE + (-*gate).exp()) * *up;
        }
    }
}

vectorized! {
    /// Replaces `gate` and `up` by their gradients: with σ = 1 / (1 + e^−gate), d gate = g · up · σ · (1 + gate · (1 − σ)), d up = g · gate · σ.
    /// `activated` = gate · σ · up.
    pub(super) fn swiglu_backward<E>(output_grad: &[E], gate: &mut [E], up: &mut [E], activated: &mut [E]) {
        for (((grad, gate), up), activated) in output_grad.iter().zip(gate).zip(up).zip(activated) {
            let sigmoid = E::ONE / (E::ONE + (-*gate).exp());
            let silu = *gate * sigmoid;
            let slope = sigmoid + silu * (E::ONE - sigmoid);
            *activated = silu * *up;
            *gate = *grad * *up * slope;
            *up = *grad * silu;
        }
    }
}

vectorized! {
    /// The largest number; −∞ for none. NaNs are passed over.
    pub(super) fn largest<E>(values: &[E]) -> E {
        let mut lanes = [E::NEG_INFINITY; LANES];
        let (chunks, rest) = values.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                *lane = lane.larger(*value);
            }
        }
        lanes.iter().chain(rest).fold(E::NEG_INFINITY, |largest, value| largest.larger(*value))
    }
}

vectorized! {
    /// Replaces each value by `e^(value · scale − shift)`; returns the sum, kept in f64 between short runs.
    pub(super) fn exponentials<E>(values: &mut [E], scale: E, shift: E) -> f64 {
        let mut total = 0.0;
        for run in values.chunks_mut(1024) {
            for value in run.iter_mut() {
                *value = value.fused(scale, -shift).exp();
            }
            total += lane_sum(run.len(), |i| run[i]).to_f64();
        }
        total
    }
}

vectorized! {
    /// Σ value, kept in f64 between short runs.
    pub(super) fn sum<E>(values: &[E]) -> f64 {
        values.chunks(1024).map(|run| lane_sum(run.len(), |i| run[i]).to_f64()).sum()
    }
}

vectorized! {
    /// Subtracts a number from each value.
    pub(super) fn subtract<E>(values: &mut [E], from_each: E) {
        for value in values {
            *value = *value - from_each;
        }
    }
}

vectorized! {
    /// Σ e^(value − shift)
    pub(super) fn exponential_sum<E>(values: &[E], shift: E) -> f64 {
        values.chunks(1024).map(|run| lane_sum(run.len(), |i| (run[i] - shift).exp()).to_f64()).sum()
    }
}

vectorized! {
    /// `values · factor`, in place.
    pub(super) fn scale<E>(values: &mut [E], factor: E) {
        for value in values {
            *value *= factor;
        }
    }
}

vectorized! {
    /// `out += x`
    pub(super) fn add<E>(out: &mut [E], x: &[E]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out += *x;
        }
    }
}

vectorized! {
    /// `score_grad = probability · (score_grad − pull) · scale`: softmax's backward pass for one row.
    pub(super) fn softmax_backward<E>(probabilities: &[E], score_grad: &mut [E], pull: E, scale: E) {
        for (grad, probability) in score_grad.iter_mut().zip(probabilities) {
            *grad = *probability * (*grad - pull) * scale;
        }
    }
}

vectorized! {
    /// Σ a · b
    pub(super) fn dot<E>(a: &[E], b: &[E]) -> E {
        let b = &b[..a.len()];
        lane_sum(a.len(), |i| a[i] * b[i])
    }
}

vectorized! {
    /// Σ x², kept in f64.
    pub(super) fn sum_of_squares<E>(values: &[E]) -> f64 {
        values.chunks(256).map(|run| lane_sum(run.len(), |i| run[i] * run[i]).to_f64()).sum()
    }
}

/// AdamW's factors for one update, rounded as torch rounds them.
pub(super) struct AdamWFactors<E> {
    pub decay: E,
    pub first_weight: E,
    pub keep_second: E,
    pub second_weight: E,
    pub step_size: E,
    pub root_correction: E,
    pub epsilon: E,
}

vectorized! {
    /// One AdamW update; see `Ops::adamw`.
    pub(super) fn adamw<E>(factors: &AdamWFactors<E>, parameters: &mut [E], gradients: &[E], first: &mut [E], second: &mut [E]) {
        for (((parameter, gradient), first), second) in parameters.iter_mut().zip(gradients).zip(first).zip(second) {
            // As torch's lerp: m + (g − m) · (1 − β1).
            *first += (*gradient - *first) * factors.first_weight;
            *second = *second * factors.keep_second + *gradient * *gradient * factors.second_weight;
            let denominator = second.sqrt() / factors.root_correction + factors.epsilon;
            *parameter = *parameter * factors.decay - factors.step_size * (*first / denominator);
        }
    }
}
