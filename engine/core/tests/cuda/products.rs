//! Matrix products and linear layers, over the strides that the model uses.

use luthier_core::ops::{
    GatedBackward, GatedForward, LinearGradTerm, LowRankGradients, LowRankLayer, LowRankTerm, Matrix, MatrixMut, Ops,
    Rope, RopePairs, RopeShape, View, ViewMut,
};
use luthier_core::{HostTensor, StoredType, TensorBytes};

use crate::compare::{Case, TOLERANCES, activations, compare, indices, numbers, open, random, read};

/// A frozen matrix, stored in f32, f16 or bf16; the numbers are the same.
fn weight<O: Ops>(ops: &O, stored: StoredType, seed: u64, [rows, columns]: [usize; 2]) -> O::Weight {
    let values = random(seed, rows * columns);
    let bytes: Vec<u8> = match stored {
        StoredType::BF16 => values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect(),
        StoredType::F16 => values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    };
    let bytes = TensorBytes::Owned(bytes.into());
    ops.upload_weight(HostTensor::new(stored, vec![rows, columns], bytes)).unwrap()
}

/// The products of an adapter: x·Aᵀ, g·B, and the gradients of both.
struct LowRank {
    rows: usize,
    rank: usize,
    width: usize,
}

impl Case for LowRank {
    fn run<O: Ops<Elem = f32>>(&self, ops: &O) -> Vec<(&'static str, Vec<f32>)> {
        let Self { rows, rank, width } = *self;
        // Side by side with another module's columns, as in a group.
        let columns = rank + 3;
        let x = activations(ops, &random(1, rows * width));
        let matrices = numbers(ops, &random(2, rank * width + 5));
        let mut low = activations(ops, &vec![0.0; rows * columns]);
        let a = View::at(&matrices, 5).columns(width);
        let out = ViewMut::at(&mut low, 3).rows(columns);
        ops.gemm(rows, rank, width, 0.5, View::from(&x).rows(width), a, false, out).unwrap();
        let mut back = activations(ops, &vec![0.0; rows * columns]);
        let b = View::at(&matrices, 5).rows(rank);
        ops.gemm(rows, rank, width, 2.0, View::from(&x).rows(width), b, false, ViewMut::at(&mut back, 0).rows(columns))
            .unwrap();
        let mut gradients = numbers(ops, &random(3, 2 * rank * width));
        let left = Matrix { view: View::at(&low, 3), row_stride: 1, column_stride: columns };
        let place = MatrixMut { view: ViewMut::at(&mut gradients, 0), row_stride: 1, column_stride: rank };
        ops.gemm(rank, width, rows, 1.0, left, View::from(&x).rows(width), true, place).unwrap();
        let left = View::from(&back).columns(columns);
        let place = ViewMut::at(&mut gradients, rank * width).rows(width);
        ops.gemm(rank, width, rows, 1.0, left, View::from(&x).rows(width), true, place).unwrap();
        vec![
            ("x · Aᵀ", read(ops, &low, rows * columns)),
            ("g · B", read(ops, &back, rows * columns)),
            ("gradients", read(ops, &gradients, 2 * rank * width)),
        ]
    }
}

#[test]
fn low_rank_products() {
    for (rows, rank, width) in [(1, 1, 8), (63, 8, 576), (65, 5, 24), (300, 16, 100)] {
        compare(&format!("{rows} rows, r = {rank}, width {width}"), &LowRank { rows, rank, width });
    }
}

/// The backward pass of the low-rank halves of layers with these outputs.
struct LowRankBackward {
    rows: usize,
    rank: usize,
    outputs: &'static [usize],
}

impl Case for LowRankBackward {
    fn run<O: Ops<Elem = f32>>(&self, ops: &O) -> Vec<(&'static str, Vec<f32>)> {
        let Self { rows, rank, outputs } = *self;
        let (hidden_stride, grad_stride) = (rank * outputs.len() + 3, rank * outputs.len() + 1);
        let total: usize = outputs.iter().sum::<usize>() * rank + 7;
        let (parameters, mut gradients) = (numbers(ops, &random(1, total)), numbers(ops, &random(2, total)));
        let hidden = activations(ops, &random(3, rows * hidden_stride));
        let mut hidden_grad = activations(ops, &vec![0.0; rows * grad_stride]);
        let grads: Vec<_> = (4..).zip(outputs).map(|(seed, out)| activations(ops, &random(seed, rows * out))).collect();
        let mut b_offset = 7;
        let mut layers = Vec::new();
        for (index, (out, grad)) in outputs.iter().zip(&grads).enumerate() {
            layers.push(LowRankLayer {
                out_features: *out,
                output_grad: View::from(grad),
                b_offset,
                hidden_column: 3 + index * rank,
                grad_column: 1 + index * rank,
            });
            b_offset += out * rank;
        }
        ops.low_rank_gradients(LowRankGradients {
            rows,
            rank,
            scale: 0.5,
            layers: &layers,
            parameters: &parameters,
            hidden: View::from(&hidden),
            hidden_stride,
            hidden_grad: ViewMut::from(&mut hidden_grad),
            grad_stride,
            gradients: &mut gradients,
        })
        .unwrap();
        vec![
            ("gradient of the products with A", read(ops, &hidden_grad, rows * grad_stride)),
            ("gradients of B", read(ops, &gradients, total)),
        ]
    }
}

#[test]
fn low_rank_halves_backward() {
    let cases: [(usize, usize, &[usize]); 9] = [
        (1, 1, &[8]),
        (63, 8, &[576, 192, 192]),
        (65, 5, &[24, 264]),
        (513, 8, &[1032]),
        (600, 16, &[520, 520]),
        (300, 12, &[64]),
        (257, 32, &[328, 40, 40]),
        (100, 40, &[64]),
        (70, 8, &[100]),
    ];
    for (rows, rank, outputs) in cases {
        compare(&format!("{rows} rows, r = {rank}, {outputs:?}"), &LowRankBackward { rows, rank, outputs });
    }
}

struct LinearLayer {
    stored: StoredType,
    rows: usize,
    shape: [usize; 2],
    rank: usize,
}

impl Case for LinearLayer {
    fn run<O: Ops<Elem = f32>>(&self, ops: &O) -> Vec<(&'static str, Vec<f32>)> {
        let Self { stored, rows, shape: [out, input], rank } = *self;
        let weight = weight(ops, stored, 1, [out, input]);
        let (x, low) = (activations(ops, &random(2, rows * input)), activations(ops, &random(3, rows * rank)));
        let (b, bias) = (numbers(ops, &random(4, out * rank)), numbers(ops, &random(5, out)));
        let residual = activations(ops, &random(6, rows * out));
        let term = || LowRankTerm { rank, left: View::from(&low).rows(rank), right: View::from(&b).columns(rank) };
        let mut plain = activations(ops, &vec![f32::NAN; rows * out]);
        let mut whole = activations(ops, &vec![f32::NAN; rows * out]);
        let from = || View::from(&x);
        ops.linear_forward(rows, from(), &weight, None, None, None, ViewMut::from(&mut plain)).unwrap();
        let (bias, added) = (Some(&bias), Some(View::from(&residual)));
        ops.linear_forward(rows, from(), &weight, bias, Some(term()), added, ViewMut::from(&mut whole)).unwrap();
        let a = numbers(ops, &random(7, rank * input));
        let term = LowRankTerm { rank, left: View::from(&low).rows(rank), right: View::from(&a).rows(input) };
        let layers = [0, 1].map(|_| LinearGradTerm { output_grad: View::from(&residual), weight: &weight });
        let mut grad = activations(ops, &vec![f32::NAN; rows * input]);
        ops.linear_grad_input(rows, &layers, Some(term), ViewMut::from(&mut grad)).unwrap();
        vec![
            ("x · Wᵀ", read(ops, &plain, rows * out)),
            ("with everything added", read(ops, &whole, rows * out)),
            ("input gradient", read(ops, &grad, rows * input)),
        ]
    }
}

#[test]
fn linear_layers() {
    for stored in [StoredType::F32, StoredType::BF16] {
        let cases = [(1, [8, 16], 1), (63, [576, 576], 8), (65, [192, 40], 4), (130, [1000, 520], 16)];
        let wide = [(129, [1096, 72], 24), (20, [40, 1030], 32), (33, [64, 64], 40)];
        for (rows, shape, rank) in cases.into_iter().chain(wide) {
            let what = format!("{rows} rows, {shape:?}, r = {rank}, {}", stored.name());
            compare(&what, &LinearLayer { stored, rows, shape, rank });
        }
    }
}

/// Layers with enough tiles for kernels that fill the card, whose low-rank half and shared input are part of one product.
#[test]
fn linear_layers_that_fill_the_card() {
    let cases = [
        (2050, [2104, 136], 8, StoredType::BF16),
        (1990, [2200, 200], 24, StoredType::F16),
        (2048, [2304, 64], 64, StoredType::F32),
        (256, [16904, 72], 16, StoredType::BF16),
        // The gradient of the input is the large one.
        (2300, [136, 2056], 8, StoredType::BF16),
        (2304, [88, 2048], 40, StoredType::F16),
    ];
    for (rows, shape, rank, stored) in cases {
        let case = LinearLayer { stored, rows, shape, rank };
        let expected = case.run(&luthier_core::ops::cpu::CpuOps::<f32>::new(4));
        for (kind, tolerance) in &TOLERANCES[1..] {
            for ((name, found), (_, expected)) in case.run(&open(*kind)).iter().zip(&expected) {
                let largest = expected.iter().fold(0.0f32, |most, value| most.max(value.abs()));
                let allowed = largest * *tolerance as f32;
                for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
                    assert!(
                        (found - expected).abs() <= allowed,
                        "{rows} rows, {shape:?}, r = {rank}, {kind:?}, {name}: {found} at {place}; expected {expected} within {allowed}"
                    );
                }
            }
        }
    }
}

/// Queries: a linear layer and rope.
struct Rotated {
    rows: usize,
    heads: usize,
    head_dim: usize,
    input: usize,
    rank: usize,
    bias: bool,
}

impl Case for Rotated {
    fn run<O: Ops<Elem = f32>>(&self, ops: &O) -> Vec<(&'static str, Vec<f32>)> {
        let Self { rows, heads, head_dim, input, rank, bias } = *self;
        let out = heads * head_dim;
        let weight = weight(ops, StoredType::BF16, 1, [out, input]);
        let (x, low) = (activations(ops, &random(2, rows * input)), activations(ops, &random(3, rows * rank)));
        let (b, bias) = (numbers(ops, &random(4, out * rank)), bias.then(|| numbers(ops, &random(5, out))));
        let term = LowRankTerm { rank, left: View::from(&low).rows(rank), right: View::from(&b).columns(rank) };
        // Two sequences, one after the other.
        let longest = rows / 2 + 1;
        let mut table = Vec::new();
        for position in 0..longest {
            let angle = |pair: usize| position as f32 * 100f32.powf(-(pair as f32) * 2.0 / head_dim as f32);
            table.extend((0..head_dim / 2).map(|pair| angle(pair).cos()));
            table.extend((0..head_dim / 2).map(|pair| angle(pair).sin()));
        }
        let positions: Vec<u32> = (0..rows).map(|row| (row % longest) as u32).collect();
        let (angles, positions) = (numbers(ops, &table), indices(ops, &positions));
        let mut turned = activations(ops, &vec![f32::NAN; rows * out]);
        let shape = RopeShape { heads, head_dim, rotated: head_dim, pairs: RopePairs::Halves };
        let rope = Rope { shape, angles: &angles, positions: &positions };
        let to = ViewMut::from(&mut turned);
        ops.linear_rope(rows, View::from(&x), &weight, bias.as_ref(), Some(term), rope, to).unwrap();
        vec![("rotated", read(ops, &turned, rows * out))]
    }
}

#[test]
fn linear_layers_with_rope() {
    // The first two fill the card; others are done in two passes.
    let cases = [
        (2050, 17, 128, 72, 8, false),
        (1900, 40, 64, 136, 16, false),
        (2050, 17, 128, 72, 8, true),
        (2050, 22, 96, 72, 8, false),
        (65, 9, 64, 576, 4, false),
        (1, 2, 16, 24, 1, true),
    ];
    for (rows, heads, head_dim, input, rank, bias) in cases {
        let what = format!("{rows} rows, {heads} heads of {head_dim}, bias {bias}");
        compare(&what, &Rotated { rows, heads, head_dim, input, rank, bias });
    }
}

/// A gated MLP's up-projection with its activation, and the way back from the gradient of the down-projection's output.
struct Gated {
    rows: usize,
    hidden: usize,
    inner: usize,
    rank: usize,
    bias: bool,
    stored: StoredType,
}

impl Case for Gated {
    fn run<O: Ops<Elem = f32>>(&self, ops: &O) -> Vec<(&'static str, Vec<f32>)> {
        let Self { rows, hidden, inner, rank, bias, stored } = *self;
        let (up, down) = (weight(ops, stored, 1, [inner, hidden]), weight(ops, stored, 2, [hidden, inner]));
        let (x, low) = (activations(ops, &random(3, rows * hidden)), activations(ops, &random(4, rows * rank)));
        let (a, b) = (numbers(ops, &random(5, rank * inner)), numbers(ops, &random(6, inner * rank)));
        let bias = bias.then(|| numbers(ops, &random(7, inner)));
        let len = rows * inner;
        let mut gate = activations(ops, &random(8, len).iter().map(|value| 4.0 * value).collect::<Vec<_>>());
        let [mut up_out, mut activated, mut again, mut room] = [(); 4].map(|()| activations(ops, &vec![f32::NAN; len]));
        let left = || View::from(&low).rows(rank);
        ops.gated_forward(GatedForward {
            rows,
            x: View::from(&x),
            weight: &up,
            bias: bias.as_ref(),
            low_rank: Some(LowRankTerm { rank, left: left(), right: View::from(&b).columns(rank) }),
            gate: View::from(&gate),
            up: ViewMut::from(&mut up_out),
            activated: ViewMut::from(&mut activated),
        })
        .unwrap();
        let forward = [read(ops, &up_out, len), read(ops, &activated, len)];
        let output_grad = activations(ops, &random(9, rows * hidden));
        ops.gated_backward(GatedBackward {
            rows,
            term: LinearGradTerm { output_grad: View::from(&output_grad), weight: &down },
            low_rank: Some(LowRankTerm { rank, left: left(), right: View::from(&a).rows(inner) }),
            gate: ViewMut::from(&mut gate),
            up: ViewMut::from(&mut up_out),
            activated: ViewMut::from(&mut again),
            activated_grad: ViewMut::from(&mut room),
        })
        .unwrap();
        let [up, activated] = forward;
        vec![
            ("up", up),
            ("activated", activated),
            ("gradient of gate", read(ops, &gate, len)),
            ("gradient of up", read(ops, &up_out, len)),
            ("activated again", read(ops, &again, len)),
        ]
    }
}

#[test]
fn gated_layers() {
    // Those above 2000 rows fill the card, but for the one with a bias; others are done in two passes.
    let cases = [
        (2050, 72, 2104, 8, false, StoredType::BF16),
        (2304, 136, 2048, 40, false, StoredType::F32),
        (1990, 64, 2200, 24, false, StoredType::F16),
        (2050, 72, 2104, 8, true, StoredType::BF16),
        (65, 40, 576, 4, false, StoredType::BF16),
        (1, 8, 24, 1, true, StoredType::F32),
    ];
    for (rows, hidden, inner, rank, bias, stored) in cases {
        let what = format!("{rows} rows of {hidden}, {inner} inside, r = {rank}, bias {bias}");
        compare(&what, &Gated { rows, hidden, inner, rank, bias, stored });
    }
}
