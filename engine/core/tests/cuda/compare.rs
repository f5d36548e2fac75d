//! Runs one function on the processor and on the GPU, and compares what it returns.

use luthier_core::ops::cpu::CpuOps;
use luthier_core::ops::cuda::{CudaOps, NumberType};
use luthier_core::ops::{Ops, View, ViewMut};
use luthier_core::random::MersenneTwister;

/// What runs on both devices; returns named results.
pub trait Case {
    fn run<O: Ops<Elem = f32>>(&self, ops: &O) -> Vec<(&'static str, Vec<f32>)>;
}

/// Tolerances of ‖found − expected‖ / ‖expected‖: f32 on both sides differs in the order of sums only; the shorter types round inputs and
/// results, and intermediate results where a case has several operations.
pub const TOLERANCES: [(NumberType, f64); 3] =
    [(NumberType::F32, 3e-6), (NumberType::F16, 2e-3), (NumberType::BF16, 1.5e-2)];

/// The GPU that tests run on.
pub fn open(kind: NumberType) -> CudaOps {
    let ordinal = std::env::var("LUTHIER_TEST_GPU").map_or(0, |text| text.parse().unwrap());
    CudaOps::open(ordinal, kind).unwrap()
}

/// Compares a case in all three types. Inputs come from [`random`], whose numbers every type holds exactly.
pub fn compare(what: &str, case: &impl Case) {
    compare_with(what, case, open);
}

/// As [`compare`], on devices that `open` opens.
pub fn compare_with(what: &str, case: &impl Case, open: impl Fn(NumberType) -> CudaOps) {
    let expected = case.run(&CpuOps::<f32>::new(4));
    for (kind, tolerance) in TOLERANCES {
        let found = case.run(&open(kind));
        for ((name, found), (_, expected)) in found.iter().zip(&expected) {
            let error = relative_error(found, expected);
            assert!(error <= tolerance, "{what}, {kind:?}, {name}: off by {error:e}; expected at most {tolerance:e}");
        }
    }
}

/// ‖found − expected‖ / ‖expected‖; NaN never passes.
fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |value: f64| value * value;
    let norm: f64 = expected.iter().map(|value| square(f64::from(*value))).sum();
    let error: f64 = found.iter().zip(expected).map(|(a, b)| square(f64::from(a - b))).sum();
    assert!(norm > 0.0, "zeros test nothing");
    let result = (error / norm).sqrt();
    if result.is_nan() { f64::INFINITY } else { result }
}

/// Numbers between −1 and 1 with seven significant bits, so that bf16 holds them exactly.
pub fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut twister = MersenneTwister::new(seed);
    (0..len).map(|_| (twister.next_u32() % 255) as f32 / 128.0 - 127.0 / 128.0).collect()
}

/// Activations with these values.
pub fn activations<O: Ops<Elem = f32>>(ops: &O, values: &[f32]) -> O::Buffer {
    let mut buffer = ops.allocate_activations(values.len()).unwrap();
    ops.write(values, ViewMut::from(&mut buffer)).unwrap();
    buffer
}

/// Numbers in full precision.
pub fn numbers<O: Ops<Elem = f32>>(ops: &O, values: &[f32]) -> O::Buffer {
    let mut buffer = ops.allocate(values.len()).unwrap();
    ops.write(values, ViewMut::from(&mut buffer)).unwrap();
    buffer
}

pub fn indices<O: Ops>(ops: &O, values: &[u32]) -> O::Indices {
    let mut indices = ops.allocate_indices(values.len()).unwrap();
    ops.write_indices(values, &mut indices).unwrap();
    indices
}

/// The first `len` numbers of a buffer.
pub fn read<O: Ops<Elem = f32>>(ops: &O, buffer: &O::Buffer, len: usize) -> Vec<f32> {
    let mut values = vec![f32::NAN; len];
    ops.read(View::from(buffer), &mut values).unwrap();
    values
}
