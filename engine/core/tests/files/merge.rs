//! Merged models: the numbers are W + scale · B · A of base and adapter, the files are read back, the logits are the pair's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use luthier_core::generate::Sequence;
use luthier_core::load;
use luthier_core::lora::LoraTargets;
use luthier_core::lora::peft::{AdapterMetadata, LoraMatrices, PeftAdapter, PeftNames, read_adapter, write_adapter};
use luthier_core::merge::{MergeFormat, MergeRequest, MergedModel, merge};
use luthier_core::quant::dequantize;
use luthier_core::quantize::{QuantizeRequest, quantize};
use luthier_core::{ErrorCode, WeightStorage};

use crate::support::{Folder, Models, TinyModel, numbers};

/// Large enough for every tiny model.
const SHARD_BYTES: u64 = 5_000_000_000;

/// Matrices for every linear layer but one, with a rank and a factor of their own for keys.
fn adapter(model: &TinyModel) -> PeftAdapter {
    let targets = LoraTargets {
        exclude_modules: Some(luthier_core::lora::ModuleNames::Names(vec!["0.mlp.up_proj".to_owned()])),
        rank_pattern: BTreeMap::from([("k_proj".to_owned(), 2)]),
        alpha_pattern: BTreeMap::from([("k_proj".to_owned(), 5.0)]),
        ..LoraTargets::default()
    };
    let linear = model.tensors.iter().filter(|(name, _)| name.contains("_proj") && !name.contains("0.mlp.up_proj"));
    let modules = linear.enumerate().map(|(index, (name, (shape, _)))| {
        let (r, alpha) = if name.contains("k_proj") { (2, 5.0) } else { (3, 6.0) };
        let matrices = LoraMatrices {
            r,
            scale: alpha / r as f64,
            in_features: shape[1],
            out_features: shape[0],
            a: numbers(r * shape[1], 100 + index as u32),
            b: numbers(r * shape[0], 200 + index as u32).into_iter().map(|x| 0.1 * x).collect(),
        };
        (name.strip_suffix(".weight").unwrap().to_owned(), matrices)
    });
    let modules = modules.collect();
    PeftAdapter {
        r: 3,
        lora_alpha: 6.0,
        targets,
        lora_dropout: 0.0,
        use_rslora: false,
        modules,
        names: PeftNames::new(&model.config),
        metadata: None,
    }
}

/// What one tensor of the merged model must be, in f64.
pub fn expected(base: &[f32], matrices: Option<&LoraMatrices>) -> Vec<f64> {
    let mut out: Vec<f64> = base.iter().map(|x| f64::from(*x)).collect();
    if let Some(LoraMatrices { r, scale, in_features, out_features, a, b }) = matrices {
        for row in 0..*out_features {
            for column in 0..*in_features {
                let product = |j: usize| f64::from(b[row * r + j]) * f64::from(a[j * in_features + column]);
                out[row * in_features + column] += scale * (0..*r).map(product).sum::<f64>();
            }
        }
    }
    out
}

struct Files {
    folder: Folder,
    model: TinyModel,
    adapter: PeftAdapter,
}

impl Files {
    fn new(name: &str, tied: bool) -> Self {
        let (folder, model) = (Folder::new(&format!("merge-{name}")), TinyModel::new(tied));
        let adapter = adapter(&model);
        for part in ["base", "adapter"] {
            std::fs::create_dir_all(folder.0.join(part)).unwrap();
        }
        write_adapter(&folder.0.join("adapter"), &adapter).unwrap();
        folder.file("base/model.safetensors", &model.safetensors(|_| true));
        folder.file("base/config.json", model.config_json().to_string().as_bytes());
        folder.file("base/tokenizer.json", b"{\"as\": \"it is\"}");
        folder.file("base/notes.txt", b"not part of the model");
        folder.file("base.gguf", &model.gguf().bytes());
        Self { folder, model, adapter }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.0.join(name)
    }

    fn merge(&self, base: &str, format: MergeFormat, shard_bytes: u64, out: &str) -> luthier_core::Result<MergedModel> {
        std::fs::create_dir_all(self.path(out)).unwrap();
        let request = MergeRequest {
            base: &self.path(base),
            base_hash: None,
            storage: WeightStorage::Stored,
            adapter: &self.path("adapter"),
            format,
            shard_bytes,
        };
        merge(&request, &self.path(out))
    }

    /// Every tensor to half a unit in the last place of a type with so many bits of mantissa; `blocks`: q8_0's half steps instead.
    fn compare(&self, merged: &Path, relative: f64, blocks: bool) {
        let files = load::open(merged).unwrap();
        assert_eq!(files.config().tie_word_embeddings, self.model.config.tie_word_embeddings);
        for (name, (shape, base)) in &self.model.tensors {
            let tensor = files.tensor(name).unwrap();
            assert_eq!(&tensor.shape, shape, "{name}");
            let expected = expected(base, self.adapter.modules.get(name.strip_suffix(".weight").unwrap()));
            let found = dequantize(&tensor);
            for (found, expected) in found.chunks(32).zip(expected.chunks(32)) {
                let largest = expected.iter().fold(0f64, |largest, x| largest.max(x.abs()));
                for (found, expected) in found.iter().zip(expected) {
                    let allowed = match blocks && shape.len() == 2 {
                        true => largest * (0.5 / 127.0 + 1e-3),
                        false => expected.abs() * relative + 1e-6,
                    };
                    let off = (f64::from(*found) - expected).abs();
                    assert!(off <= allowed, "{name}: {found}, expected {expected}");
                }
            }
        }
    }
}

/// Logits after each of some tokens, by exact products.
fn logits(mut sequence: Box<dyn Sequence>) -> Vec<f32> {
    let ids: Vec<u32> = (0..40).map(|i| (i * 37 + 11) % 96).collect();
    let mut out = Vec::new();
    sequence.reserve(ids.len());
    sequence.prefill(&ids).unwrap();
    sequence.logits(0..ids.len(), &mut out).unwrap();
    out
}

#[test]
fn checkpoints_hold_the_sum_and_have_the_pairs_logits() {
    for (tied, format, relative) in
        [(true, MergeFormat::SafetensorsF16, 1.0 / 2048.0), (false, MergeFormat::SafetensorsBf16, 1.0 / 256.0)]
    {
        let files = Files::new(format.name(), tied);
        let pair = logits(Models::new(&files.model, 2).sequence(Some(&files.adapter)));
        let alone = logits(Models::new(&files.model, 2).sequence(None));
        for base in ["base", "base.gguf"] {
            let out = format!("out-{base}");
            let merged = files.merge(base, format, SHARD_BYTES, &out).unwrap();
            assert_eq!((merged.dequantized_from, merged.has_tokenizer), (None, base == "base"));
            files.compare(&files.path(&out), relative, false);
            let found = logits(Models::new(&*load::open(&files.path(&out)).unwrap(), 2).sequence(None));
            let norm = |of: &mut dyn Iterator<Item = f32>| of.map(|x| x * x).sum::<f32>().sqrt();
            let off = norm(&mut found.iter().zip(&pair).map(|(a, b)| a - b));
            let effect = norm(&mut alone.iter().zip(&pair).map(|(a, b)| a - b));
            assert!(off < 0.05 * effect, "off by {off}, where the adapter makes a difference of {effect}");
            let sizes =
                std::fs::read_dir(files.path(&out)).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
            assert_eq!(sizes.sum::<u64>(), merged.bytes);
        }
        let text = std::fs::read_to_string(files.path("out-base/config.json")).unwrap();
        let dtype = if format == MergeFormat::SafetensorsF16 { "float16" } else { "bfloat16" };
        assert!(text.contains(&format!("\"torch_dtype\": \"{dtype}\"")), "{text}");
        assert_eq!(std::fs::read(files.path("out-base/tokenizer.json")).unwrap(), b"{\"as\": \"it is\"}");
        assert!(!files.path("out-base/notes.txt").exists());
        // Made for a GGUF file, it says the same.
        let made = load::open(&files.path("out-base.gguf")).unwrap();
        assert_eq!(made.config(), load::open(&files.path("out-base")).unwrap().config());
    }
}

#[test]
fn checkpoints_are_cut_into_shards() {
    let files = Files::new("shards", false);
    files.merge("base", MergeFormat::SafetensorsF16, 10_000, "out").unwrap();
    files.compare(&files.path("out"), 1.0 / 2048.0, false);
    let mut shards = 0;
    for entry in std::fs::read_dir(files.path("out")).unwrap() {
        let (name, bytes) = (entry.as_ref().unwrap().file_name(), entry.unwrap().metadata().unwrap().len());
        if name.to_str().unwrap().ends_with(".safetensors") {
            shards += 1;
            assert!(bytes < 12_000, "{name:?} has {bytes} bytes");
        }
    }
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(files.path("out/model.safetensors.index.json")).unwrap()).unwrap();
    let map = index["weight_map"].as_object().unwrap();
    assert_eq!(map.len(), files.model.tensors.len());
    let last = format!("model-{shards:05}-of-{shards:05}.safetensors");
    assert!(shards > 2 && map.values().any(|file| *file == last), "{index}");
}

#[test]
fn gguf_files_hold_the_sum_and_the_bases_metadata() {
    for (format, blocks, file_type) in [(MergeFormat::GgufF16, false, 1u32), (MergeFormat::GgufQ8_0, true, 7)] {
        let files = Files::new(format.name(), false);
        let merged = files.merge("base.gguf", format, SHARD_BYTES, "out").unwrap();
        let path = files.path("out/model.gguf");
        assert_eq!(merged.bytes, path.metadata().unwrap().len());
        assert!(merged.has_tokenizer);
        files.compare(&path, 1.0 / 2048.0, blocks);
        let (before, after) = (load::open(&files.path("base.gguf")).unwrap(), load::open(&path).unwrap());
        assert_eq!(before.config(), after.config());
        let (before, after) = (before.metadata().unwrap(), after.metadata().unwrap());
        assert_eq!((before.name, before.tokenizer), (after.name, after.tokenizer));
        assert_eq!(after.storage_type, if blocks { "q8_0" } else { "f16" });
        let bytes = std::fs::read(&path).unwrap();
        let key = b"general.file_type";
        let at = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len();
        assert_eq!(bytes[at..at + 8], [4u32.to_le_bytes(), file_type.to_le_bytes()].concat());
    }
}

/// A base that is held in 4 bits when it is trained on is merged as the numbers that those stand for.
#[test]
fn the_base_can_be_taken_as_it_was_held() {
    let files = Files::new("held", true);
    std::fs::create_dir_all(files.path("out")).unwrap();
    let storage = WeightStorage::Nf4 { double_quant: true };
    let request = MergeRequest {
        base: &files.path("base"),
        base_hash: None,
        storage,
        adapter: &files.path("adapter"),
        format: MergeFormat::SafetensorsF16,
        shard_bytes: SHARD_BYTES,
    };
    let merged = merge(&request, &files.path("out")).unwrap();
    assert_eq!(merged.dequantized_from.as_deref(), Some("nf4"));
    let (of_files, mut held) = (load::open(&files.path("out")).unwrap(), TinyModel::new(true));
    for (name, (_, values)) in held.tensors.iter_mut().filter(|(name, _)| name.contains("_proj")) {
        let tensor = luthier_core::model::TensorSource::tensor(&files.model, name).unwrap();
        *values = dequantize(&luthier_core::quant::convert(name, tensor, storage).unwrap());
        let expected = expected(values, files.adapter.modules.get(name.strip_suffix(".weight").unwrap()));
        for (found, expected) in dequantize(&of_files.tensor(name).unwrap()).iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() <= expected.abs() / 2048.0 + 1e-6, "{name}");
        }
    }
}

/// A base that was quantized ahead becomes a model that is not: transformers would take the numbers for codes.
#[test]
fn a_base_that_was_quantized_ahead_is_merged_as_its_numbers() {
    let files = Files::new("ahead", false);
    for storage in [WeightStorage::Int8, WeightStorage::Nf4 { double_quant: true }] {
        let (base, out) = (format!("base-{}", storage.name()), format!("out-{}", storage.name()));
        std::fs::create_dir_all(files.path(&base)).unwrap();
        let request = QuantizeRequest { base: &files.path("base"), storage, shard_bytes: SHARD_BYTES };
        quantize(&request, &files.path(&base), &mut |_| true).unwrap();
        let merged = files.merge(&base, MergeFormat::SafetensorsF16, SHARD_BYTES, &out).unwrap();
        let (before, after) = (load::open(&files.path(&base)).unwrap(), load::open(&files.path(&out)).unwrap());
        let name = "model.layers.0.self_attn.q_proj.weight";
        assert_eq!(merged.dequantized_from.as_deref(), Some(before.tensor(name).unwrap().stored.name()));
        for name in files.model.tensors.keys() {
            let numbers = dequantize(&before.tensor(name).unwrap());
            let expected = expected(&numbers, files.adapter.modules.get(name.strip_suffix(".weight").unwrap()));
            for (found, expected) in dequantize(&after.tensor(name).unwrap()).iter().zip(expected) {
                assert!((f64::from(*found) - expected).abs() <= expected.abs() / 2048.0 + 1e-6, "{name}");
            }
        }
        let config = std::fs::read_to_string(files.path(&out).join("config.json")).unwrap();
        assert!(!config.contains("quantization_config"), "{config}");
    }
}

#[test]
fn what_cannot_be_merged_is_refused() {
    let files = Files::new("refused", true);
    std::fs::create_dir_all(files.path("taken")).unwrap();
    files.folder.file("taken/model.safetensors", b"somebody's");
    let error = files.merge("base", MergeFormat::SafetensorsF16, SHARD_BYTES, "taken").unwrap_err();
    assert_eq!(error.code, ErrorCode::Io);
    assert_eq!(std::fs::read(files.path("taken/model.safetensors")).unwrap(), b"somebody's");

    let metadata = AdapterMetadata {
        base_model_name: "another".to_owned(),
        base_model_hash: "abc".to_owned(),
        template_id: String::new(),
        template_hash: String::new(),
        template: String::new(),
    };
    write_adapter(&files.path("adapter"), &PeftAdapter { metadata: Some(metadata), ..files.adapter.clone() }).unwrap();
    std::fs::create_dir_all(files.path("other")).unwrap();
    let request = MergeRequest {
        base: &files.path("base"),
        base_hash: Some("def"),
        storage: WeightStorage::Stored,
        adapter: &files.path("adapter"),
        format: MergeFormat::SafetensorsF16,
        shard_bytes: SHARD_BYTES,
    };
    let error = merge(&request, &files.path("other")).unwrap_err();
    assert_eq!(error.code, ErrorCode::AdapterMismatch);
    assert!(error.message.contains("abc") && error.message.contains("def"), "{error}");
    assert!("gguf".parse::<MergeFormat>().unwrap_err().message.contains("gguf_q8_0"));
}

fn golden(family: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../test/parity/golden/families").join(family)
}

/// Biases of projections and norms of heads are the base's.
#[test]
fn families_with_llamas_names_are_merged_with_all_they_have() {
    for family in ["qwen2", "qwen3"] {
        let (folder, base) = (Folder::new(&format!("merge-{family}")), golden(family).join("model"));
        let files = load::open(&base).unwrap();
        let path = "model.layers.0.self_attn.q_proj";
        let shape = files.tensor(&format!("{path}.weight")).unwrap().shape;
        let matrices = LoraMatrices {
            r: 2,
            scale: 3.0,
            in_features: shape[1],
            out_features: shape[0],
            a: numbers(2 * shape[1], 1),
            b: numbers(2 * shape[0], 2),
        };
        let adapter = PeftAdapter {
            r: 2,
            lora_alpha: 6.0,
            targets: LoraTargets::named([path]),
            lora_dropout: 0.0,
            use_rslora: false,
            modules: BTreeMap::from([(path.to_owned(), matrices.clone())]),
            names: PeftNames::new(files.config()),
            metadata: None,
        };
        let (adapter_folder, out) = (folder.0.join("adapter"), folder.0.join("out"));
        for folder in [&adapter_folder, &out] {
            std::fs::create_dir_all(folder).unwrap();
        }
        write_adapter(&adapter_folder, &adapter).unwrap();
        let request = MergeRequest {
            base: &base,
            base_hash: None,
            storage: WeightStorage::Stored,
            adapter: &adapter_folder,
            format: MergeFormat::SafetensorsBf16,
            shard_bytes: SHARD_BYTES,
        };
        merge(&request, &out).unwrap();
        let merged = load::open(&out).unwrap();
        assert_eq!(merged.config(), files.config(), "{family}");
        let name = if family == "qwen2" { "k_proj.bias" } else { "k_norm.weight" };
        for name in [&format!("model.layers.0.self_attn.{name}"), &format!("{path}.weight")] {
            let lora = (*name == format!("{path}.weight")).then_some(&matrices);
            let expected = expected(&dequantize(&files.tensor(name).unwrap()), lora);
            for (found, expected) in dequantize(&merged.tensor(name).unwrap()).iter().zip(expected) {
                let off = (f64::from(*found) - expected).abs();
                assert!(off <= expected.abs() / 256.0 + 1e-6, "{family} {name}: {found}, expected {expected}");
            }
        }
    }
}

/// Where a test's files are written: `LUTHIER_PARITY_OUT`, where that is a folder.
fn kept(folder: &Folder) -> PathBuf {
    std::env::var_os("LUTHIER_PARITY_OUT").map_or(folder.0.clone(), PathBuf::from)
}

/// Every tensor of a family's folder, and rope's table as it was; the adapter's parts of fused layers are in their rows. With `LUTHIER_PARITY_OUT`,
/// a folder, they stay there, for `test/parity/check_merged_families.py`.
#[test]
fn families_with_fused_layers_are_merged_under_their_own_names() {
    for (family, adapter, fused) in [
        ("baichuan-7b", "init_adapter", "model.layers.1.self_attn.W_pack.weight"),
        ("baichuan-7b", "w_pack_adapter", "model.layers.1.self_attn.W_pack.weight"),
        ("baichuan2-7b", "init_adapter", "model.layers.1.self_attn.W_pack.weight"),
        ("baichuan-13b", "init_adapter", "model.layers.1.self_attn.W_pack.weight"),
        ("chatglm3", "init_adapter", "transformer.encoder.layers.1.self_attention.query_key_value.weight"),
    ] {
        let case = format!("{family}-{adapter}");
        let (folder, family) = (Folder::new(&format!("merge-{case}")), golden(family));
        let (base, adapter, out) = (family.join("model"), family.join(adapter), kept(&folder).join(&case));
        std::fs::create_dir_all(&out).unwrap();
        let (storage, format) = (WeightStorage::Stored, MergeFormat::SafetensorsF16);
        let request =
            MergeRequest { base: &base, base_hash: None, storage, adapter: &adapter, format, shard_bytes: 10_000 };
        merge(&request, &out).unwrap();
        let (before, after) = (load::open(&base).unwrap(), load::open(&out).unwrap());
        assert_eq!(before.config(), after.config());
        let (peft, _) = read_adapter(&adapter, before.config(), None).unwrap();
        let mut names = 0;
        for module in linear_modules(before.config()) {
            let lora = peft.modules.get(&module);
            let numbers = dequantize(&before.tensor(&format!("{module}.weight")).unwrap());
            let found = dequantize(&after.tensor(&format!("{module}.weight")).unwrap());
            assert_eq!(found.len(), numbers.len());
            for (found, expected) in found.iter().zip(expected(&numbers, lora)) {
                let off = (f64::from(*found) - expected).abs();
                assert!(off <= expected.abs() / 2048.0 + 1e-6, "{module}: {found}, expected {expected}");
            }
            names += usize::from(lora.is_some());
        }
        assert_eq!(names, peft.modules.len());
        let (stored, written) = (tensors(&base), tensors(&out));
        let shapes = |tensors: &BTreeMap<String, (String, Vec<usize>, Vec<u8>)>| -> Vec<(String, Vec<usize>)> {
            tensors.iter().map(|(name, (_, shape, _))| (name.clone(), shape.clone())).collect()
        };
        assert_eq!(shapes(&stored), shapes(&written));
        assert!(written.contains_key(fused));
        for (name, tensor) in stored.iter().filter(|(name, _)| name.ends_with("inv_freq")) {
            assert_eq!(&written[name], tensor);
        }
    }
}

/// Full names of the linear layers of all blocks.
fn linear_modules(config: &luthier_core::ModelConfig) -> Vec<String> {
    let modules = ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down"];
    let layers = 0..config.num_hidden_layers;
    layers.flat_map(|layer| modules.map(|module| format!("model.layers.{layer}.{module}_proj"))).collect()
}

/// Type, shape and bytes of every tensor in a folder's safetensors.
fn tensors(folder: &Path) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let bytes = std::fs::read(&path).unwrap();
            for (name, view) in safetensors::SafeTensors::deserialize(&bytes).unwrap().iter() {
                let tensor = (format!("{:?}", view.dtype()), view.shape().to_vec(), view.data().to_vec());
                assert!(found.insert(name.to_owned(), tensor).is_none(), "{name} is there twice");
            }
        }
    }
    found
}

/// Merged, a GGUF file of every family has the base's configuration, order of rows and factors of rope.
#[test]
fn gguf_files_of_every_family_are_merged() {
    for family in ["llama3", "linear", "qwen2", "qwen3", "chatglm3"] {
        let (folder, base) = (Folder::new(&format!("merge-gguf-{family}")), golden(family));
        let (path, adapter) = (base.join(format!("../../gguf/{family}.gguf")), base.join("init_adapter"));
        let (storage, format) = (WeightStorage::Stored, MergeFormat::GgufF16);
        let request =
            MergeRequest { base: &path, base_hash: None, storage, adapter: &adapter, format, shard_bytes: SHARD_BYTES };
        merge(&request, &folder.0).unwrap();
        let (before, after) = (load::open(&path).unwrap(), load::open(&folder.0.join("model.gguf")).unwrap());
        assert_eq!(before.config(), after.config());
        let (peft, _) = read_adapter(&adapter, before.config(), None).unwrap();
        for module in linear_modules(before.config()) {
            let numbers = dequantize(&before.tensor(&format!("{module}.weight")).unwrap());
            let found = dequantize(&after.tensor(&format!("{module}.weight")).unwrap());
            for (found, expected) in found.iter().zip(expected(&numbers, peft.modules.get(&module))) {
                let off = (f64::from(*found) - expected).abs();
                assert!(off <= expected.abs() / 2048.0 + 1e-6, "{family} {module}: {found}, expected {expected}");
            }
        }
    }
}
