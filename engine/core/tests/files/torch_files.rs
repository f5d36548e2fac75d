//! `pytorch_model.bin`, alone and in shards: written by torch itself (`test/parity/make_torch_files.py`), and made on the spot.

use std::path::{Path, PathBuf};

use luthier_core::model::BaseModel;
use luthier_core::ops::cpu::CpuOps;
use luthier_core::quant::dequantize;
use luthier_core::{ErrorCode, StoredType, TensorBytes, WeightStorage, load};
use serde_json::{Map, Value, json};

use crate::allocations::peak_of;
use crate::support::{Folder, TinyModel, f32_bytes, refused};
use crate::torch_file::{Archive, Fields, dense, dict, tensor};

fn golden(name: &str) -> PathBuf {
    let package = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    PathBuf::from(package).join("../../test/parity/golden/torch_files").join(name)
}

fn config(folder: &Folder) {
    folder.file("config.json", TinyModel::new(false).config_json().to_string().as_bytes());
}

fn is_same(path: &Path, model: &TinyModel) {
    let files = load::open(path).unwrap();
    for (name, (shape, values)) in &model.tensors {
        let found = files.tensor(name).unwrap();
        assert_eq!((found.stored, &found.shape), (StoredType::F32, shape), "{name}");
        assert!(found.bytes.as_slice() == f32_bytes(values), "{name}");
        assert!(matches!(found.bytes, TensorBytes::Mapped { .. }), "{name} is copied");
    }
}

fn write_shards(folder: &Folder, model: &TinyModel, first: impl Fn(&str) -> bool) {
    config(folder);
    folder.file("pytorch_model-00001-of-00002.bin", &model.torch_file(&first).bytes);
    folder.file("pytorch_model-00002-of-00002.bin", &model.torch_file(|name| !first(name)).bytes);
    let shard = |name: &String| json!(format!("pytorch_model-0000{}-of-00002.bin", if first(name) { 1 } else { 2 }));
    let map: Map<String, Value> = model.tensors.keys().map(|name| (name.clone(), shard(name))).collect();
    folder.file("pytorch_model.bin.index.json", json!({"metadata": {}, "weight_map": map}).to_string().as_bytes());
}

/// The numbers are the tiny model's, in the types that the script chose: f16 in one file; bf16, and f32 norms, in two shards.
#[test]
fn files_that_torch_wrote_hold_what_torch_was_given() {
    let model = TinyModel::new(false);
    for (name, matrices, norms) in
        [("single", StoredType::F16, StoredType::F16), ("shards", StoredType::BF16, StoredType::F32)]
    {
        let files = load::open(&golden(name)).unwrap();
        let metadata = files.metadata().unwrap();
        assert_eq!((metadata.format.as_str(), metadata.storage_type.as_str()), ("pytorch", matrices.name()));
        for (tensor, (shape, values)) in &model.tensors {
            let found = files.tensor(tensor).unwrap();
            let stored = if shape.len() == 1 { norms } else { matrices };
            assert_eq!((found.stored, &found.shape), (stored, shape), "{name}: {tensor}");
            assert!(matches!(found.bytes, TensorBytes::Mapped { .. }), "{name}: {tensor} is copied");
            let expected = values.iter().map(|value| match stored {
                StoredType::F16 => half::f16::from_f32(*value).to_f32(),
                StoredType::BF16 => half::bf16::from_f32(*value).to_f32(),
                _ => *value,
            });
            assert_eq!(dequantize(&found), expected.collect::<Vec<_>>(), "{name}: {tensor}");
        }
    }
}

/// The same numbers, whatever torch packs them into: protocols 2 to 5, parameters, a dict with attributes, views of one storage.
#[test]
fn all_that_torch_writes_is_read_alike() {
    for name in ["protocol-2", "protocol-3", "protocol-4", "protocol-5", "parameters", "one-storage"] {
        let folder = Folder::new(&format!("torch-{name}"));
        config(&folder);
        let (bulk, few) = (TinyModel::new(false), ["model.norm.weight", "model.layers.1.self_attn.v_proj.weight"]);
        std::fs::copy(golden(&format!("few/{name}.bin")), folder.0.join("pytorch_model-00001-of-00002.bin")).unwrap();
        folder.file("pytorch_model-00002-of-00002.bin", &bulk.torch_file(|name| !few.contains(&name)).bytes);
        let shard = |name: &String| {
            json!(format!("pytorch_model-0000{}-of-00002.bin", if few.contains(&name.as_str()) { 1 } else { 2 }))
        };
        let map: Map<String, Value> = bulk.tensors.keys().map(|name| (name.clone(), shard(name))).collect();
        folder.file("pytorch_model.bin.index.json", json!({"weight_map": map}).to_string().as_bytes());
        is_same(&folder.0, &bulk);
    }
}

#[test]
fn what_else_torch_writes_is_refused_by_name() {
    for (name, code, parts) in [
        ("legacy", ErrorCode::ModelUnsupported, ["before 1.6", "save it again"]),
        ("transposed", ErrorCode::ModelUnsupported, ["`model.norm.weight`", ".contiguous()"]),
        ("doubles", ErrorCode::ModelUnsupported, ["`model.norm.weight`", "DoubleStorage"]),
        ("float8", ErrorCode::ModelUnsupported, ["`torch._utils._rebuild_tensor_v3`", "data.pkl"]),
        ("sparse", ErrorCode::ModelUnsupported, ["`torch._utils._rebuild_sparse_tensor`", "data.pkl"]),
        ("whole-model", ErrorCode::ModelUnsupported, ["`torch.nn.modules.linear.Linear`", "state dict"]),
        ("checkpoint", ErrorCode::ModelUnsupported, ["`model` is a dict", "state dict"]),
        ("optimizer", ErrorCode::ModelUnsupported, ["`step` is an int", "state dict"]),
    ] {
        let folder = Folder::new(&format!("torch-else-{name}"));
        config(&folder);
        let path = folder.0.join("pytorch_model.bin");
        std::fs::copy(golden(&format!("few/{name}.bin")), &path).unwrap();
        let error = refused(&folder.0);
        assert_eq!(error.code, code, "{name}: {error}");
        for part in parts.into_iter().chain([path.to_str().unwrap()]) {
            assert!(error.message.contains(part), "{name}: {error}");
        }
    }
}

#[test]
fn one_file_shards_and_safetensors_are_the_same_model() {
    let model = TinyModel::new(false);
    let (single, shards, both) = (Folder::new("torch-single"), Folder::new("torch-shards"), Folder::new("torch-both"));
    for folder in [&single, &both] {
        config(folder);
        folder.file("pytorch_model.bin", &model.torch_file(|_| true).bytes);
    }
    write_shards(&shards, &model, |name| name.contains("layers.0"));
    is_same(&single.0, &model);
    is_same(&shards.0, &model);
    // Where both formats are there, safetensors are read; what the other holds does not matter.
    both.file("pytorch_model.bin", b"spoilt");
    both.file("model.safetensors", &model.safetensors(|_| true));
    is_same(&both.0, &model);
    let metadata = [&single, &shards, &both].map(|folder| load::open(&folder.0).unwrap().metadata().unwrap());
    assert_eq!(metadata.each_ref().map(|metadata| metadata.format.as_str()), ["pytorch", "pytorch", "safetensors"]);
    assert!(metadata.iter().all(|other| other.content_hash == metadata[0].content_hash));
}

/// Files beyond 4 GiB have their sizes and places in 64 bits.
#[test]
fn sixty_four_bit_fields_are_read() {
    let model = TinyModel::new(false);
    let folder = Folder::new("torch-64");
    config(&folder);
    let names: Vec<String> = (0..model.tensors.len()).map(|key| format!("m/data/{key}")).collect();
    let storages: Vec<Vec<u8>> = model.tensors.values().map(|(_, values)| f32_bytes(values)).collect();
    let items: Vec<(&str, Vec<u8>)> = model
        .tensors
        .iter()
        .enumerate()
        .map(|(key, (name, (shape, values)))| {
            (name.as_str(), tensor("FloatStorage", &key.to_string(), values.len(), 0, shape, &dense(shape)))
        })
        .collect();
    let pickle = dict(&items);
    let mut entries: Vec<(&str, &[u8])> = vec![("m/data.pkl", &pickle)];
    entries.extend(names.iter().zip(&storages).map(|(name, bytes)| (name.as_str(), bytes.as_slice())));
    folder.file("pytorch_model.bin", &Archive::new(&entries, Fields::Long).bytes);
    is_same(&folder.0, &model);
}

#[test]
fn a_storage_may_be_shared_and_begin_anywhere() {
    let mut model = TinyModel::new(false);
    let folder = Folder::new("torch-shared");
    config(&folder);
    // The table is the output layer's, too; q, k and v are rows of one storage, which has three more numbers before them.
    let table = model.tensors["model.embed_tokens.weight"].clone();
    model.tensors.insert("lm_head.weight".to_owned(), table);
    let fused = ["q_proj", "k_proj", "v_proj"].map(|module| format!("model.layers.0.self_attn.{module}.weight"));
    let (mut storages, mut items) = (vec![vec![0u8; 12]], Vec::new());
    let total: usize = fused.iter().map(|name| model.tensors[name].1.len()).sum::<usize>() + 3;
    for name in &fused {
        let (shape, values) = &model.tensors[name];
        let offset = storages[0].len() / 4;
        items.push((name.as_str(), tensor("FloatStorage", "0", total, offset, shape, &dense(shape))));
        storages[0].extend(f32_bytes(values));
    }
    for (name, (shape, values)) in model.tensors.iter().filter(|(name, _)| !fused.contains(name)) {
        // The output layer comes first in order of names.
        if name != "model.embed_tokens.weight" {
            storages.push(f32_bytes(values));
        }
        let key = if name == "model.embed_tokens.weight" { 1 } else { storages.len() - 1 };
        items.push((name.as_str(), tensor("FloatStorage", &key.to_string(), values.len(), 0, shape, &dense(shape))));
    }
    folder.file("pytorch_model.bin", &Archive::of_pickle(&dict(&items), &storages).bytes);
    is_same(&folder.0, &model);
}

/// Opening reads headers; a tensor is a window of its file; converting one at a time holds one beside the file's.
#[test]
fn no_tensor_is_held_twice_but_the_one_that_is_converted() {
    let model = TinyModel::new(false);
    let folder = Folder::new("torch-memory");
    write_shards(&folder, &model, |name| name.contains("layers.0"));
    let stored: usize = model.tensors.values().map(|(_, values)| 4 * values.len()).sum();
    let (files, peak) = peak_of(|| load::open(&folder.0).unwrap());
    assert!(peak < stored / 2, "opening took {peak} of {stored} bytes");
    let (_, peak) = peak_of(|| model.tensors.keys().map(|name| files.tensor(name).unwrap()).collect::<Vec<_>>());
    assert!(peak < stored / 8, "all tensors took {peak} of {stored} bytes");
    let ops = CpuOps::<f32>::new(1);
    for storage in [WeightStorage::Stored, WeightStorage::Bf16, WeightStorage::Nf4 { double_quant: true }] {
        let (base, peak) = peak_of(|| BaseModel::load(&ops, &*files, storage).unwrap());
        let held: usize =
            base.forms.layers.iter().flatten().filter(|form| !form.mapped).map(|form| form.host_bytes() as usize).sum();
        // What one conversion holds beside its result: a piece in f32.
        let largest = model.tensors.values().map(|(_, values)| 4 * values.len()).max().unwrap();
        assert!(peak <= held + largest + 32 * 1024, "{}: {peak} bytes for {held}", storage.name());
    }
}
