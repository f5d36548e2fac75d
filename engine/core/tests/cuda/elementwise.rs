//! Norms, rope, the gated activation, rows, cross-entropy.

use luthier_core::ops::{Ops, RopePairs, RopeShape, View, ViewMut};
use luthier_core::{HostTensor, StoredType, TensorBytes};

use crate::compare::{Case, activations, compare, indices, numbers, random, read};

struct Norm {
    rows: usize,
    width: usize,
}

impl Case for Norm {
    fn run<O: Ops<Elem = f32>>(&self, ops: &O) -> Vec<(&'static str, Vec<f32>)> {
        let Self { rows, width } = *self;
        let (x, weight) = (activations(ops, &random(1, rows * width)), numbers(ops, &random(2, width)));
        let mut out = activations(ops, &vec![f32::NAN; rows * width]);
        let mut factors = ops.allocate(rows).unwrap();
        let (to, sums) = (ViewMut::from(&mut out), ViewMut::from(&mut factors));
        ops.rms_norm(rows, width, View::from(&x), &weight, 1e-5, to, sums).unwrap();
        let grad = activations(ops, &random(3, rows * width));
        let mut input_grad = activations(ops, &random(4, rows * width));
        let (from, sums, to) = (View::from(&x), View::from(&factors), ViewMut::from(&mut input_grad));
        ops.rms_norm_backward(rows, width, from, &weight, sums, View::from(&grad), to, None).unwrap();
        let mut again = activations(ops, &vec![f32::NAN; rows * width]);
        let mut second = activations(ops, &random(4, rows * width));
        let (from, sums, to) = (View::from(&x), View::from(&factors), ViewMut::from(&mut second));
        let normed = Some(ViewMut::from(&mut again));
        ops.rms_norm_backward(rows, width, from, &weight, sums, View::from(&grad), to, normed).unwrap();
        vec![
            ("output", read(ops, &out, rows * width)),
            ("output once more", read(ops, &again, rows * width)),
            ("input gradient beside it", read(ops, &second, rows * width)),
            ("reciprocal RMS", read(ops, &factors, rows)),
            ("input gradient", read(ops, &input_grad, rows * width)),
        ]
    }
}

#[test]
fn norms() {
    for (rows, width) in [
        (1, 8),
        (63, 576),
        (65, 33),
        (4095, 64),
        (7, 4096),
        (16_384, 128),
        (5000, 12),
        (5, 5120),
        (9, 8192),
        (3, 11008),
    ] {
        compare(&format!("{rows} × {width}"), &Norm { rows, width });
    }
}

struct Rope(RopeShape);

impl Case for Rope {
    fn run<O: Ops<Elem = f32>>(&self, ops: &O) -> Vec<(&'static str, Vec<f32>)> {
        let RopeShape { heads, head_dim, rotated, .. } = self.0;
        let positions = [0, 1, 2, 3, 0, 1, 100, 7];
        let len = positions.len() * heads * head_dim;
        let angles: Vec<f32> = (0..101 * rotated).map(|i| ((i * 37 % 101) as f32).cos()).collect();
        let (angles, positions) = (numbers(ops, &angles), indices(ops, &positions));
        let turn = |inverse| {
            let mut x = activations(ops, &random(1, len));
            ops.rope(ViewMut::from(&mut x), self.0, &angles, &positions, inverse).unwrap();
            read(ops, &x, len)
        };
        vec![("forward", turn(false)), ("inverse", turn(true))]
    }
}

/// Whole heads and parts of them; parts that allow wide reads and that do not.
#[test]
fn rope() {
    for (heads, head_dim, rotated) in
        [(1, 8, 8), (9, 64, 64), (32, 128, 128), (3, 80, 80), (32, 128, 64), (2, 128, 24), (5, 12, 6), (3, 10, 8)]
    {
        for pairs in [RopePairs::Halves, RopePairs::Interleaved] {
            let shape = RopeShape { heads, head_dim, rotated, pairs };
            compare(&format!("{shape:?}"), &Rope(shape));
        }
    }
}

struct GatedActivation(usize);

impl Case for GatedActivation {
    fn run<O: Ops<Elem = f32>>(&self, ops: &O) -> Vec<(&'static str, Vec<f32>)> {
        let len = self.0;
        let spread = |seed| random(seed, len).iter().map(|value| value * 8.0).collect::<Vec<_>>();
        let (mut gate, mut up) = (activations(ops, &spread(1)), activations(ops, &spread(2)));
        let mut out = activations(ops, &vec![f32::NAN; len]);
        ops.swiglu(len, View::from(&gate), View::from(&up), ViewMut::from(&mut out)).unwrap();
        let grad = activations(ops, &random(3, len));
        let mut again = activations(ops, &vec![f32::NAN; len]);
        let (to_gate, to_up) = (ViewMut::from(&mut gate), ViewMut::from(&mut up));
        ops.swiglu_backward(len, View::from(&grad), to_gate, to_up, ViewMut::from(&mut again)).unwrap();
        let results = [("output", &out), ("output again", &again), ("gate gradient", &gate), ("up gradient", &up)];
        results.into_iter().map(|(name, buffer)| (name, read(ops, buffer, len))).collect()
    }
}

#[test]
fn gated_activation() {
    for len in [1, 7, 63, 4096, 100_003] {
        compare(&format!("{len} numbers"), &GatedActivation(len));
    }
}

struct RowsOfNumbers {
    stored: StoredType,
    width: usize,
}

impl Case for RowsOfNumbers {
    fn run<O: Ops<Elem = f32>>(&self, ops: &O) -> Vec<(&'static str, Vec<f32>)> {
        let Self { stored, width } = *self;
        let values = random(1, 50 * width);
        let bytes: Vec<u8> = match stored {
            StoredType::BF16 => values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect(),
            StoredType::F16 => values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        };
        let tensor = HostTensor::new(stored, vec![50, width], TensorBytes::Owned(bytes.into()));
        let table = ops.upload_weight(tensor).unwrap();
        let mut embedded = activations(ops, &vec![f32::NAN; 6 * width]);
        ops.embedding(&table, &indices(ops, &[49, 0, 3, 3, 17, 48]), ViewMut::from(&mut embedded)).unwrap();
        let mut gathered = activations(ops, &vec![f32::NAN; 3 * width]);
        let rows = indices(ops, &[5, 0, 2]);
        ops.gather_rows(View::from(&embedded), &rows, width, ViewMut::from(&mut gathered)).unwrap();
        let mut scattered = activations(ops, &random(2, 6 * width));
        ops.scatter_rows(View::from(&gathered), &rows, width, ViewMut::from(&mut scattered)).unwrap();
        vec![
            ("embedding", read(ops, &embedded, 6 * width)),
            ("gathered", read(ops, &gathered, 3 * width)),
            ("scattered", read(ops, &scattered, 6 * width)),
        ]
    }
}

#[test]
fn rows_of_numbers() {
    for stored in [StoredType::F32, StoredType::F16, StoredType::BF16] {
        for width in [1, 33, 576] {
            compare(&format!("{width} wide, {}", stored.name()), &RowsOfNumbers { stored, width });
        }
    }
}

struct CrossEntropy {
    rows: usize,
    vocabulary: usize,
    smoothing: f64,
}

impl Case for CrossEntropy {
    fn run<O: Ops<Elem = f32>>(&self, ops: &O) -> Vec<(&'static str, Vec<f32>)> {
        let Self { rows, vocabulary, smoothing } = *self;
        let values: Vec<f32> = random(1, rows * vocabulary).iter().map(|value| value * 8.0).collect();
        let targets: Vec<u32> = (0..rows).map(|row| (row * 7919 % vocabulary) as u32).collect();
        let targets = indices(ops, &targets);
        let (mut logits, mut losses) = (activations(ops, &values), ops.allocate(rows).unwrap());
        let (x, out) = (ViewMut::from(&mut logits), ViewMut::from(&mut losses));
        ops.cross_entropy(vocabulary, &targets, smoothing, None, x, out).unwrap();
        let (kept, alone) = (read(ops, &logits, rows * vocabulary), read(ops, &losses, rows));
        assert_eq!(kept, values, "without a gradient the logits stay");
        let scale = Some(0.125);
        let (x, out) = (ViewMut::from(&mut logits), ViewMut::from(&mut losses));
        ops.cross_entropy(vocabulary, &targets, smoothing, scale, x, out).unwrap();
        vec![
            ("losses without gradients", alone),
            ("losses", read(ops, &losses, rows)),
            ("gradients", read(ops, &logits, rows * vocabulary)),
        ]
    }
}

#[test]
fn cross_entropy() {
    for (rows, vocabulary) in [(1, 3), (63, 257), (65, 1000), (4, 49_152), (3, 64_001)] {
        for smoothing in [0.0, 0.1] {
            compare(&format!("{rows} × {vocabulary}, {smoothing}"), &CrossEntropy { rows, vocabulary, smoothing });
        }
    }
}
