//! nf4, double quantization and int8 beside bitsandbytes, over `golden/quantized.safetensors`, which `test/parity/make_quantized.py` writes.

use std::path::PathBuf;

use luthier_core::quant::four_bit::{BLOCK, NF4};
use luthier_core::quant::{DYNAMIC_MAP, NestedScales, four_bit, int8, nf4};
use safetensors::SafeTensors;

const CASES: [&str; 12] = [
    "halves",
    "random",
    "spread",
    "constants",
    "outliers",
    "tiny",
    "huge",
    "midpoints",
    "crossing",
    "last_is_one",
    "odd",
    "partial_zero",
];

fn golden_bytes() -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../test/parity/golden/quantized.safetensors");
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; run test/parity/make_quantized.py", path.display()))
}

fn bytes(golden: &SafeTensors<'_>, name: &str) -> Vec<u8> {
    golden.tensor(name).unwrap().data().to_vec()
}

fn numbers(golden: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let data = bytes(golden, name);
    data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Exact, the sign of zeros included.
fn same_bits(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.to_bits(), expected.to_bits(), "{what} {index}: {found:e}, expected {expected:e}");
    }
}

/// Codes and scales are equal, byte for byte: midpoints and their neighbours, zeros, partial blocks, the ends of the range.
#[test]
fn nf4_quantizes_as_bitsandbytes() {
    let file = golden_bytes();
    let golden = SafeTensors::deserialize(&file).unwrap();
    for case in CASES {
        let weight = numbers(&golden, &format!("{case}.weight"));
        let mut packed = vec![0; weight.len().div_ceil(2)];
        let mut absmax = vec![0.0; weight.len().div_ceil(BLOCK)];
        nf4::quantize(&weight, &mut packed, &mut absmax);
        same_bits(&format!("{case}: absmax"), &absmax, &numbers(&golden, &format!("{case}.absmax")));
        assert_eq!(packed, bytes(&golden, &format!("{case}.packed")), "{case}: codes");
    }
}

#[test]
fn nf4_dequantizes_as_bitsandbytes() {
    let file = golden_bytes();
    let golden = SafeTensors::deserialize(&file).unwrap();
    for case in CASES {
        let packed = bytes(&golden, &format!("{case}.packed"));
        for (scales, expected) in [("absmax", "nf4"), ("nested_scales", "nf4_nested")] {
            let scales = numbers(&golden, &format!("{case}.{scales}"));
            let expected = numbers(&golden, &format!("{case}.{expected}"));
            let mut found = vec![f32::NAN; expected.len()];
            four_bit::dequantize(&NF4, &packed, |block| scales[block], 0, &mut found);
            same_bits(case, &found, &expected);
        }
    }
}

/// With the file's offset, codes and their scales are equal byte for byte, and so are the scales that they give.
#[test]
fn double_quantization_equals_bitsandbytes() {
    let file = golden_bytes();
    let golden = SafeTensors::deserialize(&file).unwrap();
    same_bits("code book", &DYNAMIC_MAP, &numbers(&golden, "dynamic_map"));
    for case in CASES.into_iter().chain(["many"]) {
        let absmax = numbers(&golden, &format!("{case}.absmax"));
        let offset = numbers(&golden, &format!("{case}.nested_offset"))[0];
        let found = NestedScales::with_offset(&absmax, offset);
        same_bits(case, &found.absmax, &numbers(&golden, &format!("{case}.nested_absmax")));
        assert_eq!(found.codes, bytes(&golden, &format!("{case}.nested_codes")), "{case}: codes");
        let scales: Vec<f32> = (0..absmax.len()).map(|block| found.scale(block)).collect();
        same_bits(case, &scales, &numbers(&golden, &format!("{case}.nested_scales")));
        // The mean is the same but for the order of its sum.
        let own = NestedScales::new(&absmax).offset;
        assert!((own - offset).abs() <= 1e-6 * offset, "{case}: {own:e} {offset:e}");
    }
}

/// Equal to bitsandbytes' PyTorch kernels. (Its CUDA kernel divides fast: there a code at a tie may differ by 1.)
#[test]
fn int8_equals_bitsandbytes() {
    let file = golden_bytes();
    let golden = SafeTensors::deserialize(&file).unwrap();
    let mut compared = 0;
    for case in CASES {
        if golden.tensor(&format!("{case}.int8")).is_err() {
            continue;
        }
        let mut weight = numbers(&golden, &format!("{case}.weight"));
        let columns = golden.tensor(&format!("{case}.weight")).unwrap().shape()[1];
        let codes = bytes(&golden, &format!("{case}.int8"));
        let scales = numbers(&golden, &format!("{case}.int8_absmax"));
        let expected = numbers(&golden, &format!("{case}.int8_dequantized"));
        for (row, weight) in weight.chunks_exact_mut(columns).enumerate() {
            let range = row * columns..(row + 1) * columns;
            let mut found = vec![0; columns];
            let scale = int8::quantize_row(weight, &mut found);
            assert_eq!((scale, &found[..]), (scales[row], &codes[range.clone()]), "{case}: row {row}");
            let mut numbers = vec![f32::NAN; columns];
            int8::dequantize_row(&found, scale, &mut numbers);
            // Products with unit vectors lose the sign of zeros.
            assert_eq!(numbers, expected[range], "{case}: row {row}");
        }
        compared += 1;
    }
    assert!(compared >= 5, "only {compared} cases have int8");
}
