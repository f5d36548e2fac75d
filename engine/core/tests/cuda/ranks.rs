//! Ranks and factors that differ between layers that share an input: loss and gradients beside the processor's.

use std::path::PathBuf;

use luthier_core::WeightStorage;
use luthier_core::load;
use luthier_core::lora::LoraAdapter;
use luthier_core::lora::peft::read_adapter;
use luthier_core::model::{
    Activations, BaseModel, Decoder, HeadScratch, Keep, PackedBatch, Scratch, TokenExamples, rope_angles,
};
use luthier_core::ops::cpu::CpuOps;
use luthier_core::ops::cuda::{CudaOps, NumberType};
use luthier_core::ops::{Ops, View};

/// Loss of 200 tokens and the gradients of an adapter of `test/parity/golden/adapters`, a matrix after another.
fn gradients<O: Ops<Elem = f32>>(ops: &O, case: &str) -> (f64, Vec<(String, Vec<f32>)>) {
    let package = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    let golden = PathBuf::from(package).join("../../test/parity/golden");
    let files = load::open(&golden.join("tied/model")).unwrap();
    let base = BaseModel::load(ops, &*files, WeightStorage::Stored).unwrap();
    let (peft, _) = read_adapter(&golden.join("adapters").join(case), files.config(), None).unwrap();
    let adapter = LoraAdapter::from_peft(ops, &base.config, &peft).unwrap();
    let (config, layout, rows) = (&base.config, &adapter.layout, 200);
    let ids: Vec<u32> = (0..rows as u32).map(|i| (i * i * 31 + i * 7 + 5) % 288).collect();
    let labels = ids.iter().map(|id| *id as i32).collect();
    let examples = TokenExamples { input_ids: ids, labels, offsets: vec![0, 130, rows as u32] };
    let mut batch = PackedBatch::new(ops, rows).unwrap();
    batch.fill(ops, &examples, &[0, 1]).unwrap();
    let angles = rope_angles(ops, config, rows).unwrap();
    let decoder = Decoder { ops, base: &base, adapter: &adapter, angles: &angles, dropout: None, noise: None };
    let mut activations = Activations::new(ops, config, layout, rows, Keep::ALL).unwrap();
    let mut scratch = Scratch::new(ops, config, layout, rows, true).unwrap();
    let mut head = HeadScratch::new(ops, config, rows).unwrap();
    let mut found = ops.allocate(layout.len()).unwrap();
    decoder.forward(&batch, &mut activations, &mut scratch).unwrap();
    let loss = decoder.loss(&batch, &activations, &mut scratch, &mut head, Some(1.0)).unwrap();
    decoder.backward(&batch, &mut activations, &mut scratch, &mut found).unwrap();
    let mut numbers = vec![0.0; layout.len()];
    ops.read(View::from(&found), &mut numbers).unwrap();
    let matrices = layout.modules().flat_map(|module| {
        let (a, b) = (module.r * module.in_features, module.r * module.out_features);
        [(module.a_name(), module.a_offset, a), (module.b_name(), module.b_offset, b)]
    });
    (loss, matrices.map(|(name, offset, len)| (name, numbers[offset..offset + len].to_vec())).collect())
}

#[test]
fn gradients_of_mixed_ranks_are_the_processors() {
    let ordinal = std::env::var("LUTHIER_TEST_GPU").map_or(0, |text| text.parse().unwrap());
    for case in ["patterns", "rslora-patterns"] {
        let (expected_loss, expected) = gradients(&CpuOps::<f32>::new(4), case);
        for (kind, tolerance) in [(NumberType::F32, 1e-4), (NumberType::F16, 2e-2), (NumberType::BF16, 1e-1)] {
            let (loss, found) = gradients(&CudaOps::open(ordinal, kind).unwrap(), case);
            assert!((loss / expected_loss - 1.0).abs() < tolerance / 10.0, "{case}, {kind:?}: {loss} {expected_loss}");
            for ((name, found), (_, expected)) in found.iter().zip(&expected) {
                let norm = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| x * x).sum::<f32>().sqrt();
                let off = norm(&mut found.iter().zip(expected).map(|(a, b)| a - b));
                let whole = norm(&mut expected.iter().copied());
                assert!(
                    whole > 0.0 && f64::from(off) <= tolerance * f64::from(whole),
                    "{case}, {kind:?}: {name} off by {off:e} of {whole:e}"
                );
            }
        }
    }
}
