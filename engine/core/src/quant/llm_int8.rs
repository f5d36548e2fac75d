//! LLM.int8's product (Dettmers et al., 2022, section 3): activations in 8 bits, too, but for the columns that hold outliers, which are multiplied
//! in f32. A reference to compare with what training computes, `x · Wᵀ` with W dequantized; nothing here is fast.
//!
//! The gradient of the input has no such decomposition: it is `dY · W` with W dequantized, here and there.

use half::f16;
use rayon::prelude::*;

use super::int8::{LARGEST_CODE, dequantize_row};
use super::{Scales, largest_magnitude};
use crate::error::{EngineError, Result};
use crate::tensor::{HostTensor, StoredType};

/// From this magnitude on a number is an outlier: the paper's and bitsandbytes' default.
pub const THRESHOLD: f32 = 6.0;

/// Columns up to which a sum of products of codes fits 32 bits.
const MOST_COLUMNS: usize = i32::MAX as usize / (LARGEST_CODE as usize * LARGEST_CODE as usize);

/// A product and how it was divided.
#[derive(Clone, Debug, PartialEq)]
pub struct MixedProduct {
    /// `[rows, out_features]`
    pub values: Vec<f32>,
    /// Columns of the input that were multiplied in f32, ascending.
    pub outlier_columns: Vec<usize>,
}

/// `x [rows, in_features] · weightᵀ` with an int8 weight `[out_features, in_features]`.
///
/// As bitsandbytes' `MatMul8bitLt`: a column with any `|x| ≥ threshold` in these rows is an outlier. Each row has the scale s = max |x| over all
/// of its numbers below the threshold, in outlier columns as well, and codes `round_ties_even(x · (127 / s))`, 0 in outlier columns; for these
/// two x is rounded to f16 first. Then `y = Σ code · code_w (32-bit integers) · s · s_w / 127² + Σ over outlier columns of x · W`. bitsandbytes
/// rounds the first sum to f16 and adds in the activations' type; here both are f32.
///
/// Errors: `INVALID_ARGUMENT` where the weight is not int8, has more than 133,144 columns, or x is not whole rows of as many numbers, or holds
/// one that is not finite as f16.
pub fn mixed_product(x: &[f32], weight: &HostTensor, threshold: f32) -> Result<MixedProduct> {
    let [out_features, columns] = weight.matrix()?;
    let (StoredType::Int8, Some(Scales::Rows(scales))) = (weight.stored, &weight.scales) else {
        let found = weight.stored.name();
        return Err(EngineError::invalid(format!("LLM.int8 multiplies weights of int8; found {found}")));
    };
    if columns == 0 || columns > MOST_COLUMNS || !x.len().is_multiple_of(columns) {
        let found = x.len();
        return Err(EngineError::invalid(format!(
            "expected rows of 1 to {MOST_COLUMNS} numbers, as many as the weight's {columns} columns; found {found} numbers"
        )));
    }
    let halves: Vec<f32> = x.iter().map(|value| f16::from_f32(*value).to_f32()).collect();
    if let Some(at) = halves.iter().position(|value| !value.is_finite()) {
        let (found, row, column) = (x[at], at / columns, at % columns);
        return Err(EngineError::invalid(format!("row {row}, column {column} is {found}: not finite as f16")));
    }
    let outlier_columns: Vec<usize> = (0..columns)
        .filter(|column| halves.iter().skip(*column).step_by(columns).any(|x| x.abs() >= threshold))
        .collect();
    let activations: Vec<Row> =
        halves.chunks_exact(columns).map(|row| Row::new(row, threshold, &outlier_columns)).collect();

    let weight_codes = weight.bytes.as_slice();
    // Transposed at first: each row of the weight is taken once.
    let mut transposed = vec![0.0; activations.len() * out_features];
    let outputs = transposed.par_chunks_mut(activations.len().max(1)).zip(weight_codes.par_chunks_exact(columns));
    outputs.zip(&**scales).for_each(|((outputs, codes), scale)| {
        let mut numbers = vec![0.0; columns];
        dequantize_row(codes, *scale, &mut numbers);
        for ((output, row), x) in outputs.iter_mut().zip(&activations).zip(x.chunks_exact(columns)) {
            let sum: i32 = row.codes.iter().zip(codes).map(|(a, b)| i32::from(*a) * i32::from(b.cast_signed())).sum();
            let regular = sum as f32 * (row.scale * scale * (1.0 / (LARGEST_CODE * LARGEST_CODE)));
            let outliers: f32 = outlier_columns.iter().map(|column| x[*column] * numbers[*column]).sum();
            *output = regular + outliers;
        }
    });
    let values = (0..transposed.len()).map(|i| transposed[i % out_features * activations.len() + i / out_features]);
    Ok(MixedProduct { values: values.collect(), outlier_columns })
}

/// A row of activations in 8 bits.
struct Row {
    codes: Vec<i8>,
    scale: f32,
}

impl Row {
    fn new(values: &[f32], threshold: f32, outlier_columns: &[usize]) -> Self {
        let below: Vec<f32> = values.iter().copied().filter(|value| value.abs() < threshold).collect();
        let scale = largest_magnitude(&below);
        let factor = if scale == 0.0 { 0.0 } else { LARGEST_CODE / scale };
        let mut codes: Vec<i8> = values.iter().map(|value| (value * factor).round_ties_even() as i8).collect();
        outlier_columns.iter().for_each(|column| codes[*column] = 0);
        Self { codes, scale }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::error::ErrorCode;
    use crate::quant::{WeightStorage, convert, dequantize};
    use crate::random::MersenneTwister;
    use crate::tensor::TensorBytes;

    const COLUMNS: usize = 96;
    const OUT: usize = 20;

    fn f32_matrix(values: &[f32]) -> HostTensor {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        HostTensor::new(StoredType::F32, vec![values.len() / COLUMNS, COLUMNS], TensorBytes::Owned(Arc::from(bytes)))
    }

    fn weight() -> HostTensor {
        let mut random = MersenneTwister::new(11);
        let values: Vec<f32> = (0..OUT * COLUMNS).map(|_| random.uniform_f32(0.05)).collect();
        convert("w", f32_matrix(&values), WeightStorage::Int8).unwrap()
    }

    /// Activations below 2, and outliers in columns 5, 40 and 95.
    fn activations(rows: usize) -> Vec<f32> {
        let mut random = MersenneTwister::new(rows as u64);
        let mut x: Vec<f32> = (0..rows * COLUMNS).map(|_| random.uniform_f32(2.0)).collect();
        x[5] = 61.7;
        x[(rows - 1) * COLUMNS + 40] = -6.0;
        x[rows / 2 * COLUMNS + 95] = 17.3;
        x
    }

    /// `x · Wᵀ` of the dequantized weight in f64.
    fn exact(x: &[f32], weight: &HostTensor) -> Vec<f64> {
        let numbers = dequantize(weight);
        let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
        x.chunks_exact(COLUMNS).flat_map(|x| numbers.chunks_exact(COLUMNS).map(move |w| dot(x, w))).collect()
    }

    /// The decomposition written out in f64, number by number.
    fn direct(x: &[f32], weight: &HostTensor, outliers: &[usize]) -> Vec<f64> {
        let (codes, Some(Scales::Rows(scales))) = (weight.bytes.as_slice(), &weight.scales) else { panic!("int8") };
        let mut out = Vec::new();
        for row in x.chunks_exact(COLUMNS) {
            let half = |column: usize| f16::from_f32(row[column]).to_f64();
            let scale = (0..COLUMNS).map(|i| half(i).abs()).filter(|x| *x < 6.0).fold(0.0, f64::max);
            for (codes, weight_scale) in codes.chunks_exact(COLUMNS).zip(&**scales) {
                let weight = |column: usize| f64::from(codes[column].cast_signed()) * f64::from(*weight_scale) / 127.0;
                out.push(
                    (0..COLUMNS)
                        .map(|column| match outliers.contains(&column) {
                            true => f64::from(row[column]) * weight(column),
                            false => (half(column) * 127.0 / scale).round_ties_even() * scale / 127.0 * weight(column),
                        })
                        .sum(),
                );
            }
        }
        out
    }

    /// Largest difference beside the root mean square of what is expected.
    fn error(found: &[f32], expected: &[f64]) -> f64 {
        assert_eq!(found.len(), expected.len());
        let square: f64 = expected.iter().map(|value| value * value).sum();
        let largest = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        largest / (square / expected.len() as f64).sqrt()
    }

    #[test]
    fn injected_outliers_are_found_and_the_product_is_the_decompositions() {
        let weight = weight();
        for rows in [1, 2, 7] {
            let x = activations(rows);
            let found = mixed_product(&x, &weight, THRESHOLD).unwrap();
            assert_eq!(found.outlier_columns, [5, 40, 95]);
            let off = error(&found.values, &direct(&x, &weight, &[5, 40, 95]));
            assert!(off < 2e-6, "{rows} rows: {off:e}");
        }
    }

    #[test]
    fn without_the_decomposition_outliers_cost_most_of_the_precision() {
        let (weight, x) = (weight(), activations(7));
        let exact = exact(&x, &weight);
        let mixed = mixed_product(&x, &weight, THRESHOLD).unwrap();
        let whole = mixed_product(&x, &weight, f32::INFINITY).unwrap();
        assert_eq!(whole.outlier_columns, [0usize; 0]);
        let (mixed, whole) = (error(&mixed.values, &exact), error(&whole.values, &exact));
        assert!(mixed < 0.02 && whole > 4.0 * mixed, "mixed {mixed:e}, all in 8 bits {whole:e}");
    }

    #[test]
    fn the_threshold_is_met_as_f16_and_scales_know_all_that_lies_below() {
        let weight = weight();
        let mut x = vec![0.0; 2 * COLUMNS];
        // Rounds to 6 as f16; the number below it does not.
        x[3] = 5.9995;
        x[8] = 5.99;
        // In column 3, which is taken apart, but the largest below the threshold of its row.
        x[COLUMNS + 3] = 4.0;
        x[COLUMNS + 7] = 1.0;
        let found = mixed_product(&x, &weight, THRESHOLD).unwrap();
        assert_eq!(found.outlier_columns, [3]);
        let off = error(&found.values, &direct(&x, &weight, &[3]));
        assert!(off < 2e-6, "{off:e}");
        // 1 of a scale of 4 has the code 32 (31.75 rounded), not 127.
        let row = Row::new(&x[COLUMNS..], THRESHOLD, &[3]);
        assert_eq!((row.scale, row.codes[3], row.codes[7]), (4.0, 0, 32));
    }

    #[test]
    fn rows_of_zeros_and_of_outliers_alone_have_no_codes() {
        let weight = weight();
        let mut x = vec![0.0; 2 * COLUMNS];
        x[COLUMNS..].fill(7.5);
        let found = mixed_product(&x, &weight, THRESHOLD).unwrap();
        assert_eq!(found.outlier_columns.len(), COLUMNS);
        assert!(found.values[..OUT].iter().all(|value| *value == 0.0));
        assert!(error(&found.values[OUT..], &exact(&x[COLUMNS..], &weight)) < 2e-6);
    }

    #[test]
    fn other_weights_and_numbers_that_do_not_fit_are_refused() {
        let plain = f32_matrix(&[0.5; COLUMNS]);
        let mut infinite = activations(2);
        infinite[COLUMNS + 9] = 1e5;
        for (x, weight, words) in [
            (activations(2), plain, "weights of int8; found f32"),
            (vec![0.0; COLUMNS + 1], weight(), "found 97 numbers"),
            (infinite, weight(), "row 1, column 9 is 100000"),
        ] {
            let error = mixed_product(&x, &weight, THRESHOLD).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidArgument);
            assert!(error.message.contains(words), "{error}");
        }
    }
}
