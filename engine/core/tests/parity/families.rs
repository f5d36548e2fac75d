//! Every family of models beside transformers, over `golden/families/`, which `test/parity/make_family_goldens.py` writes: logits, a training run,
//! and greedy tokens before and after it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use luthier_core::load;
use luthier_core::lora::LoraAdapter;
use luthier_core::lora::peft::{PeftAdapter, read_adapter, read_adapter_info, write_adapter};
use luthier_core::model::{
    Activations, BaseModel, Decoder, Keep, LogitsMemory, PackedBatch, Scratch, TokenExamples, rope_angles,
};
use luthier_core::ops::cpu::CpuOps;
use luthier_core::ops::{Ops, View};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

use crate::cached::every_prefix;
use crate::curve::every_step;
use crate::device::on_device;
use crate::golden::Golden;
use crate::greedy::{by_operations, on_processor, same_tokens};

/// Ids, and one of the golden logits.
fn golden_logits(golden: &Golden, name: &str) -> (Vec<u32>, Vec<f32>) {
    logits_in(&golden.folder.join("expected.safetensors"), name)
}

/// As [`golden_logits`], of a file.
pub fn logits_in(path: &Path, name: &str) -> (Vec<u32>, Vec<f32>) {
    let bytes = std::fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let words = |name: &str| -> Vec<[u8; 4]> { tensors.tensor(name).unwrap().data().as_chunks::<4>().0.to_vec() };
    let ids = words("ids").into_iter().map(u32::from_le_bytes).collect();
    (ids, words(name).into_iter().map(f32::from_le_bytes).collect())
}

fn logits<O: Ops>(ops: &O, golden: &Golden, adapter: Option<&PeftAdapter>, ids: &[u32]) -> Vec<f32> {
    logits_of(ops, &golden.model(ops), adapter, ids)
}

/// After each of some ids, in one pass.
pub fn logits_of<O: Ops>(ops: &O, base: &BaseModel<O>, adapter: Option<&PeftAdapter>, ids: &[u32]) -> Vec<f32> {
    let (config, rows) = (&base.config, ids.len());
    let adapter = match adapter {
        Some(adapter) => LoraAdapter::from_peft(ops, config, adapter).unwrap(),
        None => LoraAdapter::empty(ops, config).unwrap(),
    };
    let angles = rope_angles(ops, config, rows).unwrap();
    let labels = vec![0; rows];
    let examples = TokenExamples { input_ids: ids.to_vec(), labels, offsets: vec![0, rows as u32] };
    let mut batch = PackedBatch::new(ops, rows).unwrap();
    batch.fill(ops, &examples, &[0]).unwrap();
    let mut activations = Activations::new(ops, config, &adapter.layout, rows, Keep::Nothing).unwrap();
    let mut scratch = Scratch::new(ops, config, &adapter.layout, rows, false).unwrap();
    let decoder = Decoder { ops, base, adapter: &adapter, angles: &angles, dropout: None, noise: None };
    decoder.forward(&batch, &mut activations, &mut scratch).unwrap();
    let mut memory = LogitsMemory::new(ops, config, rows).unwrap();
    let mut found = Vec::new();
    let stream = View::from(activations.hidden(config.num_hidden_layers));
    decoder.logits(rows, stream, &mut memory, &mut found).unwrap();
    found
}

/// To 1e-5 of the largest.
pub fn same_logits(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (found - expected).abs();
        assert!(off <= 1e-5 * largest, "{what}, logit {at}: {found}, expected {expected}; the largest is {largest}");
    }
}

/// Everything but [`every_prefix`], on a device and, of generation, on the processor's decoder, too.
fn beside_transformers<O: Ops>(ops: Arc<O>, case: &str) {
    let golden = Golden::open(&format!("families/{case}"));
    let initial = golden.adapter("init_adapter");
    for (name, adapter) in [("logits", None), ("adapted", Some(&initial))] {
        let (ids, expected) = golden_logits(&golden, name);
        same_logits(&format!("{case}, {name}"), &logits(&*ops, &golden, adapter, &ids), &expected);
    }
    let trained = every_step(ops.clone(), &golden);
    for (adapter, tokens) in [(&initial, "greedy"), (&trained, "greedy_trained")] {
        same_tokens(on_processor(&golden, adapter), &golden.expected[tokens]);
        same_tokens(by_operations(ops.clone(), &golden, adapter), &golden.expected[tokens]);
    }
}

fn cached<O: Ops>(ops: Arc<O>, case: &str) {
    every_prefix(ops, &format!("families/{case}"), 1e-4);
}

macro_rules! families {
    ($($name:ident: $case:literal),* $(,)?) => {$(
        mod $name {
            use super::*;

            #[test]
            fn computes_what_transformers_computes() {
                on_device!(beside_transformers($case));
            }

            #[test]
            fn every_prefix_has_the_logits_of_the_whole_pass() {
                on_device!(cached($case));
            }
        }
    )*};
}

families! {
    llama_3: "llama3",
    llama_with_linear_scaling_and_biases: "linear",
    qwen2: "qwen2",
    qwen3: "qwen3",
    baichuan_7b: "baichuan-7b",
    baichuan2_7b: "baichuan2-7b",
    baichuan_13b: "baichuan-13b",
    chatglm3: "chatglm3",
}

/// PEFT's adapter of the fused layer itself: one A for all three.
#[test]
fn an_adapter_of_w_pack_is_read_and_written() {
    let golden = Golden::open("families/baichuan-7b");
    let (adapter, ops) = (golden.adapter("w_pack_adapter"), CpuOps::<f32>::new(2));
    let (ids, expected) = golden_logits(&golden, "w_pack");
    same_logits("w_pack", &logits(&ops, &golden, Some(&adapter), &ids), &expected);
    let path = |name: &str| format!("model.layers.0.self_attn.{name}");
    assert_eq!(adapter.modules[&path("q_proj")].a, adapter.modules[&path("v_proj")].a);
    assert_ne!(adapter.modules[&path("q_proj")].b, adapter.modules[&path("v_proj")].b);

    // Written, it is an adapter of the fused layer again, and comes back as it was.
    let folder = std::env::temp_dir().join(format!("luthier-w-pack-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    write_adapter(&folder, &adapter).unwrap();
    assert_eq!(read_adapter_info(&folder).unwrap().target_modules, ["o_proj", "W_pack"]);
    let files = load::open(&golden.folder.join("model")).unwrap();
    let read = read_adapter(&folder, files.config(), None).unwrap().0;
    assert_eq!(read.modules, adapter.modules);
    same_logits("w_pack, written", &logits(&ops, &golden, Some(&read), &ids), &expected);
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Parts of a fused layer that were trained apart, each with an A of its own, are written as one adapter of the layer. With `LUTHIER_PARITY_OUT`, a
/// folder, it stays there with our logits, for `test/parity/check_fused_adapters.py` to load into PEFT.
#[test]
fn parts_trained_apart_are_joined_in_files() {
    let kept = std::env::var_os("LUTHIER_PARITY_OUT").map(PathBuf::from);
    let temporary = std::env::temp_dir().join(format!("luthier-joined-{}", std::process::id()));
    for case in ["baichuan-7b", "baichuan2-7b"] {
        let (golden, ops) = (Golden::open(&format!("families/{case}")), Arc::new(CpuOps::<f32>::new(2)));
        let trained = every_step(ops.clone(), &golden);
        let path = |name: &str| format!("model.layers.1.self_attn.{name}");
        assert_ne!(trained.modules[&path("q_proj")].a, trained.modules[&path("v_proj")].a);
        let (ids, _) = golden_logits(&golden, "logits");
        let expected = logits(&*ops, &golden, Some(&trained), &ids);
        let folder = kept.as_deref().unwrap_or(&temporary).join(case);
        std::fs::create_dir_all(&folder).unwrap();
        write_adapter(&folder, &trained).unwrap();
        let targets = ["o_proj", "gate_proj", "up_proj", "down_proj", "W_pack"];
        assert_eq!(read_adapter_info(&folder).unwrap().target_modules, targets);
        let files = load::open(&golden.folder.join("model")).unwrap();
        let read = read_adapter(&folder, files.config(), None).unwrap().0;
        same_logits(case, &logits(&*ops, &golden, Some(&read), &ids), &expected);
        if kept.is_some() {
            let bytes: Vec<u8> = expected.iter().flat_map(|logit| logit.to_le_bytes()).collect();
            let view = TensorView::new(Dtype::F32, vec![ids.len(), expected.len() / ids.len()], &bytes).unwrap();
            serialize_to_file([("logits", view)], None, &folder.join("logits.safetensors")).unwrap();
        }
    }
    if kept.is_none() {
        std::fs::remove_dir_all(&temporary).unwrap();
    }
}
