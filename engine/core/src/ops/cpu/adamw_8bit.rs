//! AdamW with moments in 8 bits, a block at a time.

use super::parallel::{Disjoint, for_rows};
use super::pool::ThreadPool;
use super::real::Real;
use crate::ops::{AdamWFactors, MOMENT_BLOCK};
use crate::quant::{DYNAMIC_MAP, UNSIGNED_DYNAMIC_MAP, nearest_code, nearest_unsigned_code};

/// Moments of numbers that follow one another: a code each, and a scale for each block.
pub(super) struct Moments<'a, E> {
    pub codes: &'a mut [u8],
    pub scales: &'a mut [E],
}

/// One update; see `Ops::adamw_8bit`. The slices of codes, parameters and gradients are of one length.
pub(super) fn update<E: Real>(
    pool: &mut ThreadPool,
    factors: &AdamWFactors,
    parameters: &mut [E],
    gradients: &[E],
    [first, second]: [Moments<'_, E>; 2],
) {
    let len = gradients.len();
    let parameters = Disjoint::new(parameters);
    let first = (Disjoint::new(first.codes), Disjoint::new(first.scales));
    let second = (Disjoint::new(second.codes), Disjoint::new(second.scales));
    for_rows(pool, len.div_ceil(MOMENT_BLOCK), MOMENT_BLOCK, |blocks| {
        for block in blocks {
            let range = block * MOMENT_BLOCK..((block + 1) * MOMENT_BLOCK).min(len);
            let one = block..block + 1;
            // SAFETY: blocks are disjoint.
            let (parameters, first, second) = unsafe {
                (
                    parameters.range(range.clone()),
                    Moments { codes: first.0.range(range.clone()), scales: first.1.range(one.clone()) },
                    Moments { codes: second.0.range(range.clone()), scales: second.1.range(one) },
                )
            };
            update_block(factors, parameters, &gradients[range], first, second);
        }
    });
}

/// Rounds as torch does the steps of bitsandbytes' update on the processor.
fn update_block<E: Real>(
    factors: &AdamWFactors,
    parameters: &mut [E],
    gradients: &[E],
    first: Moments<'_, E>,
    second: Moments<'_, E>,
) {
    let number = E::from_f64;
    let (keep_first, first_weight) = (number(factors.keep_first), number(factors.first_weight));
    let (keep_second, second_weight) = (number(factors.keep_second), number(factors.second_weight));
    let (decay, step_size) = (number(factors.decay), number(-factors.step_size));
    let (root_correction, epsilon) = (number(factors.root_correction), number(factors.epsilon));
    let mut moments = [[E::ZERO; MOMENT_BLOCK]; 2];
    for (i, (parameter, gradient)) in parameters.iter_mut().zip(gradients).enumerate() {
        let old = E::from_f32(DYNAMIC_MAP[usize::from(first.codes[i])]) * first.scales[0];
        let m = gradient.fused(first_weight, old * keep_first);
        let old = E::from_f32(UNSIGNED_DYNAMIC_MAP[usize::from(second.codes[i])]) * second.scales[0];
        let v = old * keep_second + second_weight * *gradient * *gradient;
        let denominator = v.sqrt() / root_correction + epsilon;
        *parameter = *parameter * decay + step_size * m / denominator;
        (moments[0][i], moments[1][i]) = (m, v);
    }
    round(&moments[0][..gradients.len()], nearest_code, first);
    round(&moments[1][..gradients.len()], nearest_unsigned_code, second);
}

/// The nearest codes of numbers over their largest magnitude.
fn round<E: Real>(values: &[E], nearest: impl Fn(f32) -> u8, to: Moments<'_, E>) {
    let largest = values.iter().fold(E::ZERO, |largest, value| largest.larger(*value).larger(-*value));
    to.scales[0] = largest;
    let factor = if largest > E::ZERO { E::ONE / largest } else { E::ZERO };
    for (code, value) in to.codes.iter_mut().zip(values) {
        *code = nearest((*value * factor).to_f64() as f32);
    }
}
