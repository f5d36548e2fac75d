//! Checkpoints in bitsandbytes' 4 and 8 bits, which transformers wrote (`test/parity/make_bitsandbytes.py`).

use std::path::PathBuf;

use luthier_core::model::BaseModel;
use luthier_core::ops::cpu::CpuOps;
use luthier_core::quant::{Scales, dequantize};
use luthier_core::{ErrorCode, StoredType, TensorBytes, WeightStorage, load};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::allocations::peak_of;
use crate::support::{Folder, Models, refused};

fn golden(case: &str) -> PathBuf {
    let package = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    PathBuf::from(package).join("../../test/parity/golden/bitsandbytes").join(case)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

const K_PROJ: &str = "model.layers.0.self_attn.k_proj.weight";
const DOWN_PROJ: &str = "model.layers.0.mlp.down_proj.weight";

/// The stored bytes are taken as they are; the numbers that they stand for equal bitsandbytes' bit for bit; logits are transformers'.
#[test]
fn quantized_checkpoints_compute_what_transformers_computes() {
    for (case, stored, output) in [
        ("nf4", StoredType::Nf4, StoredType::BF16),
        ("nf4-double", StoredType::Nf4, StoredType::BF16),
        ("fp4", StoredType::Fp4, StoredType::BF16),
        ("fp4-double", StoredType::Fp4, StoredType::BF16),
        ("int8", StoredType::Int8, StoredType::Int8),
    ] {
        let folder = golden(case);
        let file = std::fs::read(folder.join("model.safetensors")).unwrap();
        let source = SafeTensors::deserialize(&file).unwrap();
        let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
        let expected = SafeTensors::deserialize(&bytes).unwrap();
        let files = load::open(&folder).unwrap();
        assert_eq!(files.metadata().unwrap().storage_type, stored.name(), "{case}");
        for name in [K_PROJ, DOWN_PROJ] {
            let tensor = files.tensor(name).unwrap();
            assert_eq!(tensor.stored, stored, "{case}: {name}");
            assert!(matches!(tensor.bytes, TensorBytes::Mapped { .. }), "{case}: {name} is copied");
            assert!(tensor.bytes.as_slice() == source.tensor(name).unwrap().data(), "{case}: {name}");
            let part = |part: &str| source.tensor(&format!("{name}.{part}")).unwrap().data().to_vec();
            match tensor.scales.as_ref().unwrap() {
                Scales::Rows(scales) => {
                    let stored = source.tensor(&name.replace(".weight", ".SCB")).unwrap();
                    assert_eq!(**scales, floats(stored.data()));
                }
                Scales::Blocks(scales) => assert_eq!(**scales, floats(&part("absmax"))),
                Scales::Nested(nested) => {
                    assert_eq!((&nested.codes, &nested.absmax), (&part("absmax"), &floats(&part("nested_absmax"))));
                    assert_eq!(nested.code_book.to_vec(), floats(&part("nested_quant_map")));
                }
            }
            let (found, last) = (dequantize(&tensor), floats(expected.tensor(name).unwrap().data()));
            assert_eq!(found[found.len() - last.len()..], last, "{case}: {name}");
        }
        let kept = files.tensor("model.layers.0.self_attn.v_proj.weight").unwrap().stored;
        assert_eq!(kept, if case == "int8" { StoredType::BF16 } else { stored }, "{case}");
        assert_eq!(files.tensor("lm_head.weight").unwrap().stored, output, "{case}");

        let ids = expected.tensor("input_ids").unwrap();
        let ids: Vec<u32> = ids.data().as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes) as u32).collect();
        let logits = floats(expected.tensor("logits").unwrap().data());
        let largest = logits.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        for mut sequence in Models::new(&*files, 2).sequences(None) {
            sequence.reserve(ids.len());
            sequence.prefill(&ids).unwrap();
            let mut found = Vec::new();
            sequence.logits(0..ids.len(), &mut found).unwrap();
            assert_eq!(found.len(), logits.len());
            let difference = found.iter().zip(&logits).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
            println!("{case}: logits differ by {difference:e} of {largest}");
            assert!(difference <= 1e-5 * largest, "{case}: logits differ by {difference:e} of {largest}");
        }
    }
}

/// What the plan prices is what the tensors take, without their scales being read.
#[test]
fn forms_are_those_of_the_tensors() {
    for case in ["nf4", "nf4-double", "fp4", "fp4-double", "int8"] {
        let files = load::open(&golden(case)).unwrap();
        for name in [K_PROJ, DOWN_PROJ, "lm_head.weight"] {
            let (form, tensor) = (files.form(name).unwrap(), files.tensor(name).unwrap());
            assert_eq!((form.rows, form.columns, form.stored), (tensor.shape[0], tensor.shape[1], tensor.stored));
            assert_eq!(form.host_bytes(), tensor.size_bytes() as u64, "{case}: {name}");
            assert_eq!(form.double_quant, matches!(tensor.scales, Some(Scales::Nested(_))));
            assert!(form.mapped);
        }
        let stored = std::fs::metadata(golden(case).join("model.safetensors")).unwrap().len() as usize;
        let ops = CpuOps::<f32>::new(1);
        let (_, peak) = peak_of(|| BaseModel::load(&ops, &*files, WeightStorage::Stored).unwrap());
        assert!(peak < stored / 4, "{case}: {peak} of {stored} bytes");
    }
}

/// Parts of a checkpoint that can be changed: name, type, shape, bytes.
struct Parts(Vec<(String, Dtype, Vec<usize>, Vec<u8>)>);

impl Parts {
    fn read(case: &str) -> Self {
        let file = std::fs::read(golden(case).join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&file).unwrap();
        let part = |(name, view): (&str, TensorView<'_>)| {
            (name.to_owned(), view.dtype(), view.shape().to_vec(), view.data().to_vec())
        };
        Self(tensors.iter().map(part).collect())
    }

    fn get(&mut self, name: &str) -> &mut (String, Dtype, Vec<usize>, Vec<u8>) {
        self.0.iter_mut().find(|(existing, ..)| existing == name).unwrap()
    }

    fn without(mut self, name: &str) -> Self {
        self.0.retain(|(existing, ..)| existing != name);
        self
    }

    fn renamed(mut self, name: &str, other: &str) -> Self {
        self.get(name).0 = other.to_owned();
        self
    }

    /// The quantization state with a field changed.
    fn with_state(mut self, field: &str, value: Value) -> Self {
        let (_, _, shape, bytes) = self.get(&format!("{DOWN_PROJ}.quant_state.bitsandbytes__nf4"));
        let mut state: Value = serde_json::from_slice(bytes).unwrap();
        match value {
            Value::Null => drop(state.as_object_mut().unwrap().remove(field)),
            value => state[field] = value,
        }
        *bytes = state.to_string().into_bytes();
        *shape = vec![bytes.len()];
        self
    }

    /// Another type, shape and content of a part.
    fn with(mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Self {
        *self.get(name) = (name.to_owned(), dtype, shape.to_vec(), bytes);
        self
    }

    fn write(&self, folder: &Folder, case: &str) {
        let views = self
            .0
            .iter()
            .map(|(name, dtype, shape, bytes)| (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
        folder.file("model.safetensors", &safetensors::serialize(views, None).unwrap());
        folder.file("config.json", &std::fs::read(golden(case).join("config.json")).unwrap());
    }
}

#[test]
fn parts_that_do_not_fit_are_refused_by_name() {
    use ErrorCode::{ModelCorrupt, ModelUnsupported};
    let (double, int8) = (|| Parts::read("nf4-double"), || Parts::read("int8"));
    let of = |part: &str| format!("{DOWN_PROJ}.{part}");
    let scales = "model.layers.0.mlp.down_proj.SCB";
    let layout = "model.layers.0.mlp.down_proj.weight_format";
    let state = of("quant_state.bitsandbytes__nf4");
    let cases: Vec<(Parts, ErrorCode, &str)> = vec![
        (double().with_state("blocksize", json!(128)), ModelUnsupported, "blocksize 128; supported: 64"),
        (double().with_state("blocksize", Value::Null), ModelUnsupported, "blocksize null"),
        (double().with_state("nested_blocksize", json!(64)), ModelUnsupported, "nested_blocksize 64; supported: 256"),
        (double().with_state("nested_offset", Value::Null), ModelCorrupt, "`nested_offset`"),
        (double().with_state("shape", Value::Null), ModelCorrupt, "without the shape of a matrix"),
        (double().with_state("shape", json!([18240])), ModelCorrupt, "without the shape of a matrix"),
        (double().with_state("shape", json!([u64::MAX, 2])), ModelCorrupt, "without the shape of a matrix"),
        (double().with_state("shape", json!([-40, 456])), ModelCorrupt, "without the shape of a matrix"),
        (double().with_state("shape", json!([40, 458])), ModelCorrupt, "bytes of codes"),
        (double().with_state("shape", json!([456, 40])), ModelCorrupt, "another shape"),
        (double().with(&state, Dtype::U8, &[1], b"{".to_vec()), ModelCorrupt, "not valid JSON"),
        (double().with(&state, Dtype::U8, &[5000], vec![b' '; 5000]), ModelCorrupt, "5000 bytes"),
        (double().without(&of("absmax")), ModelCorrupt, ".absmax` is missing"),
        (double().without(&of("nested_absmax")), ModelCorrupt, ".nested_absmax` is missing"),
        (double().without(&of("nested_quant_map")), ModelCorrupt, ".nested_quant_map` is missing"),
        (double().without(&of("quant_map")), ModelCorrupt, ".quant_map` is missing"),
        (double().without(DOWN_PROJ), ModelCorrupt, "down_proj.weight` is missing"),
        (double().without(&state), ModelUnsupported, "type U8"),
        (double().with(&of("absmax"), Dtype::U8, &[284], vec![0; 284]), ModelCorrupt, "U8 [284]; expected 285 numbers"),
        (double().with(&of("nested_absmax"), Dtype::F32, &[1], vec![0; 4]), ModelCorrupt, "expected 2 numbers of F32"),
        (double().with(&of("quant_map"), Dtype::F32, &[16], vec![0; 64]), ModelUnsupported, "other values than nf4's"),
        (double().renamed(&state, &of("quant_state.bitsandbytes__fp4")), ModelUnsupported, "other values than fp4's"),
        (
            double().renamed(&state, &of("quant_state.bitsandbytes__af4")),
            ModelUnsupported,
            "`af4`; supported: nf4, fp4",
        ),
        (int8().without(scales), ModelUnsupported, "type I8"),
        (int8().without("model.layers.0.mlp.down_proj.weight"), ModelCorrupt, "down_proj.SCB` is there"),
        (int8().with(scales, Dtype::F32, &[39], vec![0; 156]), ModelCorrupt, "expected 40 numbers of F32"),
        (int8().with(DOWN_PROJ, Dtype::I8, &[18240], vec![0; 18240]), ModelCorrupt, "expected a matrix"),
        (int8().with(DOWN_PROJ, Dtype::U8, &[40, 456], vec![0; 18240]), ModelCorrupt, "is U8 [40, 456]"),
        (int8().with(layout, Dtype::U8, &[1], vec![1]), ModelCorrupt, "the layout [1]; supported: 0"),
    ];
    for (index, (parts, code, part)) in cases.into_iter().enumerate() {
        let folder = Folder::new(&format!("bnb-{index}"));
        parts.write(&folder, "nf4");
        let error = refused(&folder.0);
        assert_eq!(error.code, code, "{part}: {error}");
        assert!(error.message.contains(part), "{part}: {error}");
        assert!(error.message.contains(folder.0.to_str().unwrap()), "{error}");
    }
}

/// The scales are part of what a model is: its content hash tells two offsets apart, and two that lie beside the same codes.
#[test]
fn scales_are_part_of_the_content() {
    let hash = |parts: Parts| {
        let folder = Folder::new("bnb-hash");
        parts.write(&folder, "nf4-double");
        load::open(&folder.0).unwrap().metadata().unwrap().content_hash
    };
    let changed = |part: &str| {
        let mut parts = Parts::read("nf4-double");
        parts.get(&format!("{DOWN_PROJ}.{part}")).3[0] ^= 1;
        parts
    };
    let mut hashes = vec![
        hash(Parts::read("nf4-double")),
        hash(changed("absmax")),
        hash(changed("nested_absmax")),
        hash(changed("nested_quant_map")),
        hash(Parts::read("nf4-double").with_state("nested_offset", json!(0.25))),
    ];
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), 5);
}
