//! Every operation that has a gradient.

use std::sync::Arc;

use luthier_core::ops::cpu::{CpuBuffer, CpuOps};
use luthier_core::ops::{DropoutMask, LinearGradTerm, LowRankTerm, Ops, RopePairs, RopeShape, View, ViewMut};
use luthier_core::{HostTensor, StoredType, TensorBytes};

use super::differences::{Numbers, check};

pub type Buffer = CpuBuffer<f64>;

pub fn ops() -> CpuOps<f64> {
    CpuOps::new(2)
}

pub fn buffer(ops: &CpuOps<f64>, values: &[f64]) -> Buffer {
    let mut buffer = ops.allocate(values.len()).unwrap();
    ops.write(values, (&mut buffer).into()).unwrap();
    buffer
}

pub fn values(ops: &CpuOps<f64>, buffer: &Buffer, len: usize) -> Vec<f64> {
    let mut values = vec![0.0; len];
    ops.read(buffer.into(), &mut values).unwrap();
    values
}

pub fn indices(ops: &CpuOps<f64>, numbers: &[u32]) -> <CpuOps<f64> as Ops>::Indices {
    let mut indices = ops.allocate_indices(numbers.len()).unwrap();
    ops.write_indices(numbers, &mut indices).unwrap();
    indices
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A frozen matrix; its numbers are f32, as in files.
fn weight(ops: &CpuOps<f64>, rows: usize, columns: usize, numbers: &mut Numbers) -> <CpuOps<f64> as Ops>::Weight {
    let bytes: Vec<u8> = (0..rows * columns).flat_map(|_| (numbers.next() as f32).to_le_bytes()).collect();
    let bytes = TensorBytes::Owned(bytes.into());
    ops.upload_weight(HostTensor::new(StoredType::F32, vec![rows, columns], bytes)).unwrap()
}

/// The gradient through a mask is the mask.
#[test]
fn dropout() {
    let (ops, mut numbers, len) = (ops(), Numbers::new(11), 150);
    let (x, grad) = (numbers.many(len), numbers.many(len));
    let mask = DropoutMask { key: [1, 2], stream: [3, 4, 5], probability: 0.4 };
    let run = |x: &[f64]| {
        let (x, mut out) = (buffer(&ops, x), buffer(&ops, &vec![f64::NAN; len]));
        ops.dropout(len, mask, (&x).into(), false, (&mut out).into()).unwrap();
        values(&ops, &out, len)
    };
    // Gradients are added to what is there.
    let (output_grad, mut input_grad) = (buffer(&ops, &grad), buffer(&ops, &vec![2.0; len]));
    ops.dropout(len, mask, (&output_grad).into(), true, (&mut input_grad).into()).unwrap();
    let found = values(&ops, &input_grad, len).iter().map(|value| value - 2.0).collect();
    check("dropout", &[x], &[found], |inputs| dot(&run(&inputs[0]), &grad));
}

#[test]
fn rms_norm() {
    let (ops, mut numbers, rows, width, epsilon) = (ops(), Numbers::new(1), 5, 7, 1e-3);
    let (x, weight, grad) = (numbers.many(rows * width), numbers.many(width), numbers.many(rows * width));
    let weight = buffer(&ops, &weight);
    let run = |x: &[f64]| {
        let (mut out, mut factors) = (buffer(&ops, &[0.0; 35]), buffer(&ops, &[0.0; 5]));
        let x = buffer(&ops, x);
        ops.rms_norm(rows, width, (&x).into(), &weight, epsilon, (&mut out).into(), (&mut factors).into()).unwrap();
        (out, factors)
    };
    let (out, factors) = run(&x);
    // Gradients are added to what is there.
    let mut input_grad = buffer(&ops, &vec![2.0; rows * width]);
    let (on_device, output_grad) = (buffer(&ops, &x), buffer(&ops, &grad));
    let (from, factors, output) = ((&on_device).into(), (&factors).into(), (&output_grad).into());
    let mut again = ops.allocate(rows * width).unwrap();
    let (to, normed) = ((&mut input_grad).into(), Some((&mut again).into()));
    ops.rms_norm_backward(rows, width, from, &weight, factors, output, to, normed).unwrap();
    assert_eq!(values(&ops, &again, rows * width), values(&ops, &out, rows * width));
    let found = values(&ops, &input_grad, rows * width).iter().map(|value| value - 2.0).collect();
    check("rms_norm", &[x], &[found], |inputs| dot(&values(&ops, &run(&inputs[0]).0, rows * width), &grad));
}

#[test]
fn rope() {
    // All of a head and the first part of it.
    for rotated in [8, 4] {
        for pairs in [RopePairs::Halves, RopePairs::Interleaved] {
            rope_of(RopeShape { heads: 3, head_dim: 8, rotated, pairs });
        }
    }
}

fn rope_of(shape: RopeShape) {
    let (ops, mut numbers) = (ops(), Numbers::new(2));
    let RopeShape { heads, head_dim, rotated, pairs } = shape;
    let (half, places) = (rotated / 2, [0, 1, 2, 0, 1]);
    let len = places.len() * heads * head_dim;
    let (x, grad) = (numbers.many(len), numbers.many(len));
    let turn = |position: usize, pair: usize| position as f64 * 0.7f64.powi(pair as i32);
    let angles = (0..3).flat_map(|position| {
        let cosines = (0..half).map(move |pair| turn(position, pair).cos());
        cosines.chain((0..half).map(move |pair| turn(position, pair).sin()))
    });
    let angles = buffer(&ops, &angles.collect::<Vec<_>>());
    let positions = indices(&ops, &places);
    let run = |x: &[f64], inverse: bool| {
        let mut x = buffer(&ops, x);
        ops.rope((&mut x).into(), shape, &angles, &positions, inverse).unwrap();
        values(&ops, &x, len)
    };
    let mut expected = x.clone();
    for (head, row) in expected.chunks_exact_mut(head_dim).zip(places.iter().flat_map(|row| [*row; 3])) {
        for pair in 0..half {
            let (first, second) = match pairs {
                RopePairs::Halves => (pair, pair + half),
                RopePairs::Interleaved => (2 * pair, 2 * pair + 1),
            };
            let (sin, cos) = turn(row as usize, pair).sin_cos();
            (head[first], head[second]) =
                (head[first] * cos - head[second] * sin, head[second] * cos + head[first] * sin);
        }
    }
    for (found, expected) in run(&x, false).iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-14, "{shape:?}: {found}, expected {expected}");
    }
    let found = run(&grad, true);
    check(&format!("{shape:?}"), &[x], &[found], |inputs| dot(&run(&inputs[0], false), &grad));
}

#[test]
fn swiglu() {
    let (ops, mut numbers, len) = (ops(), Numbers::new(3), 50);
    let inputs =
        [numbers.many(len), numbers.many(len)].map(|list| list.iter().map(|value| 4.0 * value).collect::<Vec<_>>());
    let grad = numbers.many(len);
    let (mut gate, mut up, output_grad) = (buffer(&ops, &inputs[0]), buffer(&ops, &inputs[1]), buffer(&ops, &grad));
    let mut activated = buffer(&ops, &vec![0.0; len]);
    let (gate_place, up_place) = ((&mut gate).into(), (&mut up).into());
    ops.swiglu_backward(len, (&output_grad).into(), gate_place, up_place, (&mut activated).into()).unwrap();
    let found = [values(&ops, &gate, len), values(&ops, &up, len)];
    check("swiglu", &inputs, &found, |inputs| {
        let (gate, up, mut out) = (buffer(&ops, &inputs[0]), buffer(&ops, &inputs[1]), buffer(&ops, &vec![0.0; len]));
        ops.swiglu(len, (&gate).into(), (&up).into(), (&mut out).into()).unwrap();
        dot(&values(&ops, &out, len), &grad)
    });
}

/// The gradient of a linear layer with its low-rank half, with respect to its input; two layers share the input.
#[test]
fn linear_layers_that_share_an_input() {
    let (ops, mut numbers) = (Arc::new(ops()), Numbers::new(5));
    let (rows, in_features, out_features, rank) = (6, 10, [7, 4], 3);
    let weights = out_features.map(|out| weight(&ops, out, in_features, &mut numbers));
    let x = numbers.many(rows * in_features);
    let a = numbers.many(rank * in_features);
    let b = numbers.many(out_features[0] * rank);
    let grads = out_features.map(|out| numbers.many(rows * out));
    let function = |x: &[f64]| {
        let (x, a, b) = (buffer(&ops, x), buffer(&ops, &a), buffer(&ops, &b));
        let mut inner = buffer(&ops, &vec![0.0; rows * rank]);
        let (left, right) = (View::from(&x).rows(in_features), View::from(&a).columns(in_features));
        ops.gemm(rows, rank, in_features, 0.5, left, right, false, ViewMut::from(&mut inner).rows(rank)).unwrap();
        let mut sum = 0.0;
        for (which, grad) in grads.iter().enumerate() {
            let mut out = buffer(&ops, &vec![0.0; rows * out_features[which]]);
            let low_rank = (which == 0).then(|| LowRankTerm {
                rank,
                left: View::from(&inner).rows(rank),
                right: View::from(&b).columns(rank),
            });
            ops.linear_forward(rows, (&x).into(), &weights[which], None, low_rank, None, (&mut out).into()).unwrap();
            sum += dot(&values(&ops, &out, grad.len()), grad);
        }
        sum
    };
    let grads_on_device = [buffer(&ops, &grads[0]), buffer(&ops, &grads[1])];
    // Through the low-rank half: (grad · B) · A, scaled.
    let mut inner = buffer(&ops, &vec![0.0; rows * rank]);
    let (b, a) = (buffer(&ops, &b), buffer(&ops, &a));
    let (left, right) = (View::from(&grads_on_device[0]).rows(out_features[0]), View::from(&b).rows(rank));
    ops.gemm(rows, rank, out_features[0], 0.5, left, right, false, ViewMut::from(&mut inner).rows(rank)).unwrap();
    let terms =
        [0, 1].map(|which| LinearGradTerm { output_grad: (&grads_on_device[which]).into(), weight: &weights[which] });
    let low_rank = LowRankTerm { rank, left: View::from(&inner).rows(rank), right: View::from(&a).rows(in_features) };
    let mut input_grad = buffer(&ops, &vec![0.0; rows * in_features]);
    ops.linear_grad_input(rows, &terms, Some(low_rank), (&mut input_grad).into()).unwrap();
    let found = values(&ops, &input_grad, rows * in_features);
    check("linear", &[x], &[found], |inputs| function(&inputs[0]));
}

#[test]
fn cross_entropy() {
    cross_entropy_with(0.0);
}

#[test]
fn cross_entropy_of_smoothed_labels() {
    cross_entropy_with(0.3);
}

fn cross_entropy_with(smoothing: f64) {
    let (ops, mut numbers) = (ops(), Numbers::new(6));
    let (rows, vocabulary, scale) = (4, 37, 0.25);
    let targets = indices(&ops, &[3, 36, 0, 3]);
    let logits: Vec<f64> = numbers.many(rows * vocabulary).iter().map(|value| 5.0 * value).collect();
    let run = |logits: &[f64], grad_scale: Option<f64>| {
        let (mut logits, mut losses) = (buffer(&ops, logits), buffer(&ops, &[0.0; 4]));
        let (logits_on_device, losses_on_device) = ((&mut logits).into(), (&mut losses).into());
        ops.cross_entropy(vocabulary, &targets, smoothing, grad_scale, logits_on_device, losses_on_device).unwrap();
        (values(&ops, &logits, rows * vocabulary), values(&ops, &losses, rows))
    };
    let (found, losses) = run(&logits, Some(scale));
    assert_eq!(losses, run(&logits, None).1);
    check("cross_entropy", &[logits], &[found], |inputs| scale * run(&inputs[0], None).1.iter().sum::<f64>());
}
