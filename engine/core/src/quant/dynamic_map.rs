//! bitsandbytes' 8-bit code books: an exponent of variable length and a linear fraction (Dettmers, "8-Bit Approximations for Parallelism in Deep
//! Learning", 2016). `kernels/cuda/adamw_8bit.cu` makes the same.
//!
//! For i in 0..7: the midpoints of n equal parts of [0.1, 1], times 10^(i - 6); and 0 and 1. With signs n is 2^i, without 2^(i + 1).

const EXPONENTS: usize = 7;
const POWERS: [f32; EXPONENTS] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];

/// Code to value, ascending; code 127 is 0, code 255 is 1.
pub const DYNAMIC_MAP: [f32; 256] = signed();

/// Code to value of numbers that are not negative, ascending; code 0 is 0, code 255 is 1.
pub const UNSIGNED_DYNAMIC_MAP: [f32; 256] = unsigned();

/// Midpoint i lies between the values i and i + 1, rounded to f32.
const MIDPOINTS: [f32; 255] = midpoints(&DYNAMIC_MAP);
const UNSIGNED_MIDPOINTS: [f32; 255] = midpoints(&UNSIGNED_DYNAMIC_MAP);

/// Border k of `parts` equal parts of [0.1, 1], as torch's `linspace`: from the nearer end, with one rounding.
const fn border(k: usize, parts: usize) -> f32 {
    let step = (1.0 - 0.1f32) / parts as f32;
    // In f64 product and sum are exact.
    if k < parts.div_ceil(2) {
        (0.1f32 as f64 + step as f64 * k as f64) as f32
    } else {
        (1.0 - step as f64 * (parts - k) as f64) as f32
    }
}

/// The values between 0 and 1, ascending.
const fn between<const N: usize>(parts_at_first: usize) -> [f32; N] {
    let mut values = [0.0; N];
    let (mut exponent, mut parts, mut at) = (0, parts_at_first, 0);
    while exponent < EXPONENTS {
        let mut k = 0;
        while k < parts {
            values[at] = POWERS[exponent] * ((border(k, parts) + border(k + 1, parts)) / 2.0);
            (k, at) = (k + 1, at + 1);
        }
        (exponent, parts) = (exponent + 1, 2 * parts);
    }
    values
}

const fn signed() -> [f32; 256] {
    let positive = between::<127>(1);
    let mut values = [0.0; 256];
    let mut i = 0;
    while i < positive.len() {
        values[128 + i] = positive[i];
        values[126 - i] = -positive[i];
        i += 1;
    }
    values[255] = 1.0;
    values
}

const fn unsigned() -> [f32; 256] {
    let positive = between::<254>(2);
    let mut values = [0.0; 256];
    let mut i = 0;
    while i < positive.len() {
        values[1 + i] = positive[i];
        i += 1;
    }
    values[255] = 1.0;
    values
}

const fn midpoints(values: &[f32; 256]) -> [f32; 255] {
    let mut midpoints = [0.0; 255];
    let mut i = 0;
    while i < 255 {
        midpoints[i] = (values[i] + values[i + 1]) / 2.0;
        i += 1;
    }
    midpoints
}

/// The code whose value is nearest to a number; at a midpoint the lower one.
pub(crate) fn nearest_code(value: f32) -> u8 {
    MIDPOINTS.partition_point(|midpoint| *midpoint < value) as u8
}

/// As [`nearest_code`], of [`UNSIGNED_DYNAMIC_MAP`].
pub(crate) fn nearest_unsigned_code(value: f32) -> u8 {
    UNSIGNED_MIDPOINTS.partition_point(|midpoint| *midpoint < value) as u8
}
