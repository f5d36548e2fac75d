//! Attention: the definition, number by number, and its gradients; with and without a sliding window, with and without ALiBi.

use luthier_core::ops::cpu::CpuOps;
use luthier_core::ops::{AttentionGrads, AttentionInputs, AttentionSaved, AttentionShape, Ops};

use super::differences::{Numbers, check};
use super::operations::{Buffer, buffer, dot, indices, ops, values};

/// Grouped heads.
const SHAPE: AttentionShape = AttentionShape { heads: 6, key_value_heads: 2, head_dim: 4, window: None, alibi: false };
/// Three sequences of different lengths side by side; one is longer than two blocks of queries.
const BORDERS: [u32; 4] = [0, 1, 12, 162];
const ROWS: usize = 162;
const WIDE: usize = ROWS * 24;
const NARROW: usize = ROWS * 8;
/// None, those around the sizes of blocks, and one that is longer than every sequence.
const WINDOWS: [Option<usize>; 9] =
    [None, Some(1), Some(2), Some(5), Some(63), Some(64), Some(65), Some(100), Some(500)];

fn inputs(seed: u64) -> [Vec<f64>; 3] {
    let mut numbers = Numbers::new(seed);
    [WIDE, NARROW, NARROW].map(|len| numbers.many(len))
}

/// Output and ln Σ exp.
fn forward(ops: &CpuOps<f64>, shape: AttentionShape, inputs: &[Vec<f64>]) -> [Buffer; 2] {
    let [query, key, value] = [0, 1, 2].map(|which| buffer(ops, &inputs[which]));
    let (mut output, mut sums) = (buffer(ops, &vec![f64::NAN; WIDE]), buffer(ops, &vec![f64::NAN; ROWS * 6]));
    let views = AttentionInputs { query: (&query).into(), key: (&key).into(), value: (&value).into() };
    ops.attention(shape, &indices(ops, &BORDERS), views, (&mut output).into(), (&mut sums).into()).unwrap();
    [output, sums]
}

fn gradients(ops: &CpuOps<f64>, shape: AttentionShape, inputs: &[Vec<f64>], grad: &[f64]) -> [Vec<f64>; 3] {
    let [output, sums] = forward(ops, shape, inputs);
    let [query, key, value] = [0, 1, 2].map(|which| buffer(ops, &inputs[which]));
    let output_grad = buffer(ops, grad);
    let mut grads = [WIDE, NARROW, NARROW].map(|len| buffer(ops, &vec![f64::NAN; len]));
    let [query_grad, key_grad, value_grad] = &mut grads;
    ops.attention_backward(
        shape,
        &indices(ops, &BORDERS),
        AttentionInputs { query: (&query).into(), key: (&key).into(), value: (&value).into() },
        AttentionSaved { output: (&output).into(), log_sum_exp: (&sums).into(), output_grad: (&output_grad).into() },
        AttentionGrads { query: query_grad.into(), key: key_grad.into(), value: value_grad.into() },
    )
    .unwrap();
    [(0, WIDE), (1, NARROW), (2, NARROW)].map(|(which, len)| values(ops, &grads[which], len))
}

/// ALiBi's slopes of six heads, by the paper's rule: those of four, then every second of eight.
const SLOPES: [f64; 6] = [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125];

#[test]
fn slopes_are_those_of_the_paper() {
    let slope = |heads: usize, head: usize| AttentionShape { heads, alibi: true, ..SHAPE }.slope(head);
    assert_eq!(SLOPES, std::array::from_fn(|head| slope(6, head)));
    // Baichuan-13B's 40: those of 32, then eight of 64.
    assert_eq!(
        [slope(40, 0), slope(40, 31), slope(40, 32), slope(40, 39)],
        [-0.25f64, -8.0, -0.125, -1.875].map(f64::exp2)
    );
    assert_eq!([slope(1, 0), slope(8, 7)], [-8f64, -8.0].map(f64::exp2));
    assert_eq!(AttentionShape { alibi: false, ..SHAPE }.slope(3), 0.0);
}

/// As transformers writes the mask: key j is seen from i where `j <= i` and `j > i - window`.
fn by_definition(
    AttentionShape { window, alibi, .. }: AttentionShape,
    [query, key, value]: &[Vec<f64>; 3],
) -> (Vec<f64>, Vec<f64>) {
    let (mut output, mut sums) = (vec![0.0; WIDE], vec![0.0; ROWS * 6]);
    for pair in BORDERS.windows(2) {
        let sequence = pair[0] as usize..pair[1] as usize;
        for (i, head) in sequence.clone().flat_map(|i| (0..6).map(move |head| (i, head))) {
            let column = |j: usize| (j * 2 + head / 3) * 4;
            let q = &query[(i * 6 + head) * 4..][..4];
            let seen = |j: &usize| *j <= i && window.is_none_or(|window| *j as i64 > i as i64 - window as i64);
            let keys: Vec<usize> = sequence.clone().filter(seen).collect();
            let slope = if alibi { SLOPES[head] } else { 0.0 };
            let score = |j: &usize| dot(q, &key[column(*j)..][..4]) / 2.0 - slope * (i - j) as f64;
            let exponentials: Vec<f64> = keys.iter().map(|j| score(j).exp()).collect();
            let total: f64 = exponentials.iter().sum();
            sums[i * 6 + head] = total.ln();
            for (j, exponential) in keys.iter().zip(&exponentials) {
                for d in 0..4 {
                    output[(i * 6 + head) * 4 + d] += exponential / total * value[column(*j) + d];
                }
            }
        }
    }
    (output, sums)
}

#[test]
fn attention_is_as_defined() {
    let (ops, inputs) = (ops(), inputs(4));
    for (window, alibi) in WINDOWS.into_iter().flat_map(|window| [(window, false), (window, true)]) {
        let shape = AttentionShape { window, alibi, ..SHAPE };
        let [output, sums] = forward(&ops, shape, &inputs);
        let (expected, expected_sums) = by_definition(shape, &inputs);
        let found = values(&ops, &output, WIDE).into_iter().chain(values(&ops, &sums, ROWS * 6));
        for (at, (found, expected)) in found.zip(expected.iter().chain(&expected_sums)).enumerate() {
            assert!((found - expected).abs() < 1e-12, "{shape:?}, {at}: {found}, expected {expected}");
        }
    }
}

#[test]
fn gradients_of_attention() {
    let (ops, inputs, grad) = (ops(), inputs(4), Numbers::new(5).many(WIDE));
    for (window, alibi) in WINDOWS.into_iter().map(|window| (window, false)).chain([(None, true), (Some(65), true)]) {
        let shape = AttentionShape { window, alibi, ..SHAPE };
        let found = gradients(&ops, shape, &inputs, &grad);
        // Of one key alone, the softmax is 1 whatever the query and the key are; only the values have gradients.
        let first = if window == Some(1) { 2 } else { 0 };
        let rest = found[..first].iter().flatten().fold(0f64, |most, value| most.max(value.abs()));
        assert!(rest < 1e-12, "{rest:e}");
        check(&format!("attention, {shape:?}"), &inputs[first..], &found[first..], |moved| {
            let all = [&inputs[..first], moved].concat();
            dot(&values(&ops, &forward(&ops, shape, &all)[0], WIDE), &grad)
        });
    }
}

/// A window at least as long as the sequences changes no bit.
#[test]
fn a_window_longer_than_every_sequence_is_none() {
    let (ops, inputs, grad) = (ops(), inputs(6), Numbers::new(7).many(WIDE));
    let run = |window| {
        let shape = AttentionShape { window, ..SHAPE };
        let [output, sums] = forward(&ops, shape, &inputs);
        (values(&ops, &output, WIDE), values(&ops, &sums, ROWS * 6), gradients(&ops, shape, &inputs, &grad))
    };
    let expected = run(None);
    for window in [150, 151, 1 << 40] {
        assert!(run(Some(window)) == expected, "{window}");
    }
    assert!(run(Some(149)).0 != expected.0);
}

#[test]
fn a_window_of_nothing_is_refused() {
    let (ops, shape) = (ops(), AttentionShape { window: Some(0), ..SHAPE });
    let [query, key, value] = inputs(8).map(|values| buffer(&ops, &values));
    let views = || AttentionInputs { query: (&query).into(), key: (&key).into(), value: (&value).into() };
    let [mut output, mut sums] = [WIDE, ROWS * 6].map(|len| buffer(&ops, &vec![0.0; len]));
    assert!(ops.attention(shape, &indices(&ops, &BORDERS), views(), (&mut output).into(), (&mut sums).into()).is_err());
    assert!(ops.cached_attention(shape, 1, 1, views(), (&mut output).into()).is_err());
}
