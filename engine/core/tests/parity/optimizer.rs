//! Clipping and AdamW beside torch.

use std::sync::Arc;

use luthier_core::ops::cpu::CpuOps;
use luthier_core::ops::{AdamW, AdamW8bitState, AdamWState, Element, Ops, View, ViewMut};
use luthier_core::quant::UNSIGNED_DYNAMIC_MAP;
use safetensors::SafeTensors;

use crate::device::on_device;
use crate::golden::{Golden, close};

const START: [f64; 4] = [0.5, -0.25, 1.0, 2.0];
const GRADIENTS: [[f64; 4]; 4] =
    [[0.3, -0.8, 0.05, 1.2], [-0.1, 0.4, 0.0, 0.2], [2.0, -3.0, 1.0, 0.5], [0.01, 0.02, -0.03, 0.04]];
/// Norm before clipping to 1.0, and the parameters after the step; torch 2.15, f64:
/// ```python
/// p = torch.nn.Parameter(torch.tensor(START, dtype=torch.float64))
/// o = torch.optim.AdamW([p], lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, foreach=False)
/// for g in GRADIENTS:
///     p.grad = torch.tensor(g, dtype=torch.float64)
///     print(torch.nn.utils.clip_grad_norm_([p], 1.0).item(), p.tolist() if o.step() is None else None)
/// ```
const EXPECTED: [(f64, [f64; 4]); 4] = [
    (1.4739402972983675, [0.48950000049131376, -0.23975000018424267, 0.9890000029478817, 1.9880000001228284]),
    (0.45825756949558405, [0.4862586372016439, -0.23852967408027007, 0.9812245283430486, 1.977635108004193]),
    (3.774917217635375, [0.47918819382104877, -0.23297187546850925, 0.9734149785065465, 1.9681660511362806]),
    (0.05477225575051661, [0.47314580493913877, -0.22843790825033033, 0.9674543242680451, 1.9597054244563892]),
];

/// `loss_scale`: what the gradients were multiplied by.
fn trajectory<O: Ops>(ops: Arc<O>, loss_scale: f64, tolerance: f64) {
    let buffer = |values: [f64; 4]| {
        let mut buffer = ops.allocate(4).unwrap();
        ops.write(&values.map(O::Elem::from_f64), ViewMut::from(&mut buffer)).unwrap();
        buffer
    };
    let (mut parameters, mut first, mut second) = (buffer(START), buffer([0.0; 4]), buffer([0.0; 4]));
    for (step, (gradients, (norm, expected))) in (1..).zip(GRADIENTS.into_iter().zip(EXPECTED)) {
        let mut gradients = buffer(gradients.map(|gradient| gradient * loss_scale));
        close("norm", ops.clip_norm(&mut gradients, 1.0 / loss_scale, 1.0).unwrap(), norm, tolerance);
        let settings = AdamW { learning_rate: 0.01, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, step };
        let state = AdamWState {
            parameters: &mut parameters,
            gradients: &gradients,
            range: 0..4,
            first_moments: &mut first,
            second_moments: &mut second,
            moments_at: 0,
        };
        ops.adamw(settings, state).unwrap();
        let mut found = [O::Elem::from_f64(0.0); 4];
        ops.read(View::from(&parameters), &mut found).unwrap();
        for (found, expected) in found.iter().zip(expected) {
            close(&format!("parameter after step {step}"), found.to_f64(), expected, tolerance);
        }
    }
}

#[test]
fn parameters_follow_torchs_in_single_and_double_precision() {
    trajectory(Arc::new(CpuOps::<f64>::new(1)), 1.0, 1e-12);
    on_device!(trajectory(1.0, 1e-6));
}

#[test]
fn a_scaled_loss_gives_the_same_updates() {
    trajectory(Arc::new(CpuOps::<f64>::new(1)), 1024.0, 1e-12);
    on_device!(trajectory(1024.0, 1e-6));
}

/// Not clipped, gradients are divided by the scale all the same; what is not finite shows in the norm.
fn scaling_alone<O: Ops>(ops: Arc<O>) {
    for (third, norm) in [(8.0, 3.0), (f64::INFINITY, f64::INFINITY)] {
        let mut gradients = ops.allocate(3).unwrap();
        ops.write(&[4.0, -8.0, third].map(O::Elem::from_f64), ViewMut::from(&mut gradients)).unwrap();
        assert_eq!(ops.clip_norm(&mut gradients, 0.25, 0.0).unwrap(), norm);
        let mut found = [O::Elem::from_f64(0.0); 3];
        ops.read(View::from(&gradients), &mut found).unwrap();
        assert_eq!(found.map(Element::to_f64), [1.0, -2.0, third / 4.0]);
    }
}

#[test]
fn gradients_are_divided_by_the_scale_without_clipping() {
    on_device!(scaling_alone());
}

/// Six updates beside bitsandbytes' AdamW8bit (test/parity/make_trainer_goldens.py): parameters within 1e-6 of the learning rate and of themselves,
/// every code. The numbers lie in the middle of larger buffers.
fn in_8_bits<O: Ops>(ops: Arc<O>) {
    let bytes = std::fs::read(Golden::open("tied").folder.join("../adamw_8bit.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let codes = |name: &str| golden.tensor(name).unwrap().data().to_vec();
    let numbers = |name: &str| -> Vec<f64> {
        codes(name).as_chunks::<4>().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect()
    };
    let map: Vec<f64> = UNSIGNED_DYNAMIC_MAP.iter().map(|value| f64::from(*value)).collect();
    assert_eq!(map, numbers("unsigned_dynamic_map"));
    let (before, after, len, blocks) = (5, 3, 700, 3);
    let all = before + len + after;
    let write = |values: &[f64], to: &mut O::Buffer, at: usize| {
        let values: Vec<O::Elem> = values.iter().map(|value| O::Elem::from_f64(*value)).collect();
        ops.write(&values, ViewMut::at(to, at)).unwrap();
    };
    let read = |from: &O::Buffer, len: usize| -> Vec<f64> {
        let mut values = vec![O::Elem::from_f64(0.0); len];
        ops.read(View::from(from), &mut values).unwrap();
        values.into_iter().map(Element::to_f64).collect()
    };
    let (mut parameters, mut gradients) = (ops.allocate(all).unwrap(), ops.allocate(all).unwrap());
    write(&numbers("start"), &mut parameters, before);
    let mut first = (ops.allocate_codes(all).unwrap(), ops.allocate(blocks + 2).unwrap());
    let mut second = (ops.allocate_codes(all).unwrap(), ops.allocate(blocks + 2).unwrap());
    let (all_gradients, all_after) = (numbers("gradients"), numbers("after"));
    for (index, gradient) in all_gradients.chunks(len).enumerate() {
        write(gradient, &mut gradients, before);
        let step = index as u64 + 1;
        let settings = AdamW { learning_rate: 0.01, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, step };
        let state = AdamW8bitState {
            parameters: &mut parameters,
            gradients: &gradients,
            range: before..before + len,
            first_codes: &mut first.0,
            second_codes: &mut second.0,
            codes_at: after,
            first_scales: &mut first.1,
            second_scales: &mut second.1,
            scales_at: 1,
        };
        ops.adamw_8bit(settings, state).unwrap();
        let found = read(&parameters, all);
        assert!(found[..before].iter().chain(&found[before + len..]).all(|outside| *outside == 0.0));
        for (i, expected) in all_after[index * len..][..len].iter().enumerate() {
            let difference = (found[before + i] - expected).abs();
            assert!(
                difference <= 1e-6 * (0.01 + expected.abs()),
                "number {i} after step {step}: off by {difference:e}"
            );
        }
    }
    for (name, (found_codes, found_scales)) in [("first", &first), ("second", &second)] {
        let scales = numbers(&format!("{name}_scales"));
        let found = read(found_scales, blocks + 2);
        assert_eq!((found[0], found[4]), (0.0, 0.0));
        for (found, expected) in found[1..4].iter().zip(scales) {
            close(&format!("{name} scale"), *found, expected, 1e-6);
        }
        let mut found = vec![0; all];
        ops.read_codes(found_codes, &mut found).unwrap();
        assert!(found[..after].iter().chain(&found[after + len..]).all(|outside| *outside == 0));
        assert_eq!(found[after..after + len], codes(&format!("{name}_codes")), "{name} codes");
    }
}

#[test]
fn moments_in_8_bits_follow_bitsandbytes() {
    in_8_bits(Arc::new(CpuOps::<f64>::new(1)));
    on_device!(in_8_bits());
}
