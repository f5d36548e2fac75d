//! Rope's frequencies and tables of angles.

use std::f64::consts::TAU;

use crate::config::{ModelConfig, PositionEncoding, Rope, RopeScaling};
use crate::error::Result;
use crate::ops::{Element, Ops, ViewMut};

/// How much the angle of each pair grows from one position to the next; none for models without rope.
///
/// `theta^(−2i/rotated)`, then scaled as transformers' `modeling_rope_utils.py` does. `single`: each is rounded to f32 before it is scaled and
/// after, as transformers computes them.
pub(crate) fn rope_frequencies(config: &ModelConfig, single: bool) -> Vec<f64> {
    let PositionEncoding::Rope(Rope { rotated, scaling, .. }) = &config.variant.position else { return Vec::new() };
    let rotated = rotated.unwrap_or(config.head_dim);
    let round = |value: f64| if single { f64::from(value as f32) } else { value };
    let frequency = |i: usize| {
        let exponent = 2.0 * i as f64 / rotated as f64;
        let plain = if single {
            f64::from(1.0 / (config.rope_theta as f32).powf(exponent as f32))
        } else {
            config.rope_theta.powf(-exponent)
        };
        round(scaled(plain, i, scaling))
    };
    (0..rotated / 2).map(frequency).collect()
}

/// `i`: the number of the frequency.
fn scaled(frequency: f64, i: usize, scaling: &RopeScaling) -> f64 {
    match *scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Factors(ref factors) => frequency / f64::from(factors[i]),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            // Turns within the original context.
            let turns = original_context * frequency / TAU;
            if turns < low_freq_factor {
                frequency / factor
            } else if turns > high_freq_factor {
                frequency
            } else {
                let blend = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - blend) * frequency / factor + blend * frequency
            }
        }
    }
}

/// Numbers that [`rope_angles`] allocates.
pub(crate) fn rope_angle_count(config: &ModelConfig, positions: usize) -> usize {
    positions * config.rope_shape(1).map_or(0, |shape| shape.rotated)
}

/// Cosines and sines of rope for `positions` positions: `[positions, rotated]`, at each the cosines, then the sines. Empty without rope.
///
/// Angles are position times [`rope_frequencies`], rounded to f32 as transformers computes them; on f64 devices nothing is rounded.
pub fn rope_angles<O: Ops>(ops: &O, config: &ModelConfig, positions: usize) -> Result<O::Buffer> {
    let single = size_of::<O::Elem>() == size_of::<f32>();
    let mut values = Vec::with_capacity(rope_angle_count(config, positions));
    let frequencies = rope_frequencies(config, single);
    for position in 0..positions {
        let angle = |frequency: &f64| {
            let exact = position as f64 * frequency;
            if single { f64::from(exact as f32) } else { exact }
        };
        values.extend(frequencies.iter().map(|frequency| O::Elem::from_f64(angle(frequency).cos())));
        values.extend(frequencies.iter().map(|frequency| O::Elem::from_f64(angle(frequency).sin())));
    }
    let mut buffer = ops.allocate(values.len())?;
    if !values.is_empty() {
        ops.write(&values, ViewMut::from(&mut buffer))?;
    }
    Ok(buffer)
}
