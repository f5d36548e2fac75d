//! GGUF files of every family, which `test/parity/make_gguf.py` writes and llama.cpp reads: their logits are transformers' of the same weights.

use std::path::PathBuf;
use std::sync::Arc;

use luthier_core::lora::LoraTargets;
use luthier_core::lora::peft::PeftAdapter;
use luthier_core::model::BaseModel;
use luthier_core::ops::Ops;
use luthier_core::ops::cpu::CpuOps;
use luthier_core::{WeightStorage, load};

use crate::device::on_device;
use crate::families::{logits_in, logits_of, same_logits};
use crate::golden::Golden;

const CASES: [&str; 8] =
    ["llama3", "linear", "qwen2", "qwen3", "chatglm3", "baichuan-7b", "baichuan2-7b", "baichuan-13b"];

fn folder() -> PathBuf {
    Golden::open("tied").folder.join("../gguf")
}

fn every_file<O: Ops>(ops: Arc<O>) {
    for case in CASES {
        // Files of other models than those of the family's folder have logits of their own.
        let own = folder().join(format!("{case}.safetensors"));
        let of_family = folder().join("../families").join(case).join("expected.safetensors");
        let (ids, expected) = logits_in(if own.exists() { &own } else { &of_family }, "logits");
        let files = load::open(&folder().join(format!("{case}.gguf"))).unwrap();
        let base = BaseModel::load(&*ops, &*files, WeightStorage::Stored).unwrap();
        same_logits(case, &logits_of(&*ops, &base, None, &ids), &expected);
        assert_eq!(files.metadata().unwrap().format, "gguf", "{case}");
    }
}

#[test]
fn files_have_the_logits_of_transformers() {
    on_device!(every_file());
}

/// An adapter belongs to a family's names, whatever file its base is.
#[test]
fn adapters_of_folders_fit_files() {
    for case in ["llama3", "qwen3", "chatglm3"] {
        let (golden, ops) = (Golden::open(&format!("families/{case}")), CpuOps::<f32>::new(2));
        let adapter: PeftAdapter = golden.adapter("init_adapter");
        assert_ne!(adapter.targets, LoraTargets::default());
        let (ids, expected) = logits_in(&golden.folder.join("expected.safetensors"), "adapted");
        let files = load::open(&folder().join(format!("{case}.gguf"))).unwrap();
        let base = BaseModel::load(&ops, &*files, WeightStorage::Stored).unwrap();
        same_logits(case, &logits_of(&ops, &base, Some(&adapter), &ids), &expected);
    }
}
