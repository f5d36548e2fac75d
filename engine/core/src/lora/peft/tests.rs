use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::config::{ModelConfig, Variant};
use crate::error::ErrorCode;
use crate::lora::{LoraTargets, ModuleNames};

/// A folder of this test alone, removed when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("luthier-peft-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Changes one key of the settings.
    fn set(&self, key: &str, value: Value) {
        let path = self.0.join(CONFIG_FILE);
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config[key] = value;
        std::fs::write(path, config.to_string()).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn config() -> ModelConfig {
    ModelConfig {
        model_type: "llama".to_owned(),
        vocab_size: 32,
        hidden_size: 8,
        intermediate_size: 12,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 4,
        sliding_window: None,
        max_position_embeddings: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        tie_word_embeddings: true,
        variant: Variant::default(),
        eos_token_ids: vec![],
        bos_token_id: None,
    }
}

fn adapter() -> PeftAdapter {
    let matrices = |r: usize, in_features: usize, out_features: usize, base: f32| LoraMatrices {
        r,
        scale: 16.0 / r as f64,
        in_features,
        out_features,
        a: (0..r * in_features).map(|i| base + i as f32).collect(),
        b: (0..out_features * r).map(|i| base - i as f32 / 3.0).collect(),
    };
    let targets = LoraTargets {
        rank_pattern: BTreeMap::from([("down_proj".to_owned(), 4)]),
        ..LoraTargets::named(["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"])
    };
    PeftAdapter {
        r: 2,
        lora_alpha: 16.0,
        targets,
        lora_dropout: 0.05,
        use_rslora: false,
        modules: BTreeMap::from([
            ("model.layers.0.self_attn.q_proj".to_owned(), matrices(2, 8, 8, 0.5)),
            ("model.layers.1.mlp.down_proj".to_owned(), matrices(4, 12, 8, -1.5)),
        ]),
        names: PeftNames::new(&config()),
        metadata: Some(AdapterMetadata {
            base_model_name: "tiny".to_owned(),
            base_model_hash: "abc".to_owned(),
            template_id: "concat@1".to_owned(),
            template_hash: "def".to_owned(),
            template: "{\"id\":\"concat\",\"user\":\"问：{content}\\n\"}".to_owned(),
        }),
    }
}

fn code(folder: &Folder) -> ErrorCode {
    read_adapter(&folder.0, &config(), Some("abc")).unwrap_err().code
}

#[test]
fn an_adapter_comes_back_as_it_was_written() {
    let folder = Folder::new("round-trip");
    let saved = write_adapter(&folder.0, &adapter()).unwrap();
    let (read, info) = read_adapter(&folder.0, &config(), Some("abc")).unwrap();
    assert_eq!(read, adapter());
    assert_eq!(info, read_adapter_info(&folder.0).unwrap());
    assert_eq!(info.sha256, saved.sha256);
    assert_eq!(info.target_modules, ["q_proj", "down_proj"]);
    assert_eq!(info.parameter_count, (2 * 8 + 8 * 2) + (4 * 12 + 8 * 4));
    let scales: Vec<f64> = read.modules.values().map(|matrices| matrices.scale).collect();
    assert_eq!(scales, [8.0, 4.0]);
    let files: Vec<_> = std::fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files.len(), 2, "only the two files are left: {files:?}");
    let bytes: u64 = [CONFIG_FILE, WEIGHTS_FILE].iter().map(|name| folder.0.join(name).metadata().unwrap().len()).sum();
    assert_eq!(bytes, saved.bytes);
}

/// The settings of PEFT 0.3, its oldest release with an index of adapters: it accepts no others.
#[test]
fn equal_adapters_are_equal_files() {
    let folder = Folder::new("equal");
    let first = write_adapter(&folder.0, &adapter()).unwrap();
    for _ in 0..8 {
        assert_eq!(write_adapter(&folder.0, &adapter()).unwrap(), first);
    }
}

#[test]
fn only_what_older_versions_of_peft_know_is_written() {
    const PEFT_0_3: [&str; 14] = [
        "base_model_name_or_path",
        "bias",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_dropout",
        "modules_to_save",
        "peft_type",
        "r",
        "target_modules",
        "task_type",
    ];
    let folder = Folder::new("minimal");
    let plain = PeftAdapter { targets: LoraTargets::default(), ..adapter() };
    write_adapter(&folder.0, &plain).unwrap();
    let config: serde_json::Map<String, Value> =
        serde_json::from_slice(&std::fs::read(folder.0.join(CONFIG_FILE)).unwrap()).unwrap();
    let surplus: Vec<&String> = config.keys().filter(|key| !PEFT_0_3.contains(&key.as_str())).collect();
    assert!(surplus.is_empty(), "{surplus:?}");
    assert_eq!(config["target_modules"], json!(["q_proj", "down_proj"]));
}

#[test]
fn any_form_of_target_modules_is_accepted() {
    let folder = Folder::new("targets");
    write_adapter(&folder.0, &adapter()).unwrap();
    let names = json!(["model.layers.0.self_attn.q_proj", "1.mlp.down_proj"]);
    for targets in [names, json!(r"model\.layers\.(0\.self_attn\.q|1\.(?!self).*down)_proj"), Value::Null] {
        folder.set("target_modules", targets);
        assert_eq!(read_adapter(&folder.0, &config(), Some("abc")).unwrap().1.target_modules, ["q_proj", "down_proj"]);
    }
}

#[test]
fn matrices_and_targets_must_be_the_same_modules() {
    let folder = Folder::new("missing");
    write_adapter(&folder.0, &adapter()).unwrap();
    folder.set("target_modules", json!("all-linear"));
    let error = read_adapter(&folder.0, &config(), Some("abc")).unwrap_err();
    assert_eq!(error.code, ErrorCode::AdapterCorrupt);
    let expected = "`base_model.model.model.layers.0.mlp.down_proj.lora_A.weight` [4, 12] and `….lora_B.weight` [8, 4]";
    assert!(error.message.contains(WEIGHTS_FILE) && error.message.contains(expected), "{error}");

    folder.set("target_modules", json!(["q_proj", "down_proj"]));
    folder.set("exclude_modules", json!("model.*down_proj"));
    let error = read_adapter_info(&folder.0).unwrap_err();
    assert_eq!(error.code, ErrorCode::AdapterCorrupt);
    let expected = "`base_model.model.model.layers.1.mlp.down_proj.lora_A.weight` [4, 12] is surplus";
    assert!(error.message.contains(WEIGHTS_FILE) && error.message.contains(expected), "{error}");
}

#[test]
fn unknown_settings_are_accepted_where_they_are_off() {
    let folder = Folder::new("future");
    write_adapter(&folder.0, &adapter()).unwrap();
    for off in [Value::Null, json!(false), json!([]), json!({})] {
        folder.set("a_setting_of_the_future", off);
        read_adapter_info(&folder.0).unwrap();
    }
    folder.set("a_setting_of_the_future", json!({"x": 1}));
    let error = read_adapter_info(&folder.0).unwrap_err();
    assert_eq!(error.code, ErrorCode::AdapterUnsupported);
    assert!(error.message.contains("`a_setting_of_the_future` is {\"x\":1}"), "{error}");
}

#[test]
fn malformed_settings_are_corrupt_and_named() {
    let cases = [
        ("r", json!(0), "a whole number from 1"),
        ("lora_alpha", json!("16"), "a number"),
        ("lora_dropout", json!(1.5), "a number from 0 to 1"),
        ("use_rslora", json!("yes"), "true or false"),
        ("target_modules", json!([1]), "a text or a list of texts"),
        ("layers_to_transform", json!([-1]), "a block's number or a list of them"),
        ("rank_pattern", json!({"q_proj": 0}), "a whole number from 1"),
        ("alpha_pattern", json!(["q_proj"]), "an object of numbers by module"),
    ];
    for (key, value, expected) in cases {
        let folder = Folder::new(&format!("malformed-{key}"));
        write_adapter(&folder.0, &adapter()).unwrap();
        folder.set(key, value);
        let error = read_adapter_info(&folder.0).unwrap_err();
        assert_eq!(error.code, ErrorCode::AdapterCorrupt, "{key}: {error}");
        assert!(error.message.contains(CONFIG_FILE) && error.message.contains(key), "{error}");
        assert!(error.message.ends_with(expected), "{error}");
    }
}

#[test]
fn the_origin_is_read_where_earlier_versions_wrote_it_too() {
    let folder = Folder::new("earlier");
    write_adapter(&folder.0, &PeftAdapter { metadata: None, ..adapter() }).unwrap();
    assert_eq!(read_adapter_info(&folder.0).unwrap().metadata, None);
    let metadata = adapter().metadata.unwrap();
    let mut texts = BTreeMap::from(metadata.texts());
    folder.set("luthier", json!(texts));
    assert_eq!(read_adapter_info(&folder.0).unwrap().metadata, Some(metadata.clone()));
    texts.remove("template");
    folder.set("luthier", json!(texts));
    let without = AdapterMetadata { template: String::new(), ..metadata };
    assert_eq!(read_adapter_info(&folder.0).unwrap().metadata, Some(without));
}

#[test]
fn variants_of_lora_are_refused_by_name() {
    let cases = [
        ("use_dora", json!(true)),
        ("lora_bias", json!(true)),
        ("modules_to_save", json!(["lm_head"])),
        ("target_modules", json!("(q_proj")),
        ("bias", json!("all")),
        ("peft_type", json!("IA3")),
        ("init_lora_weights", json!("pissa_niter_4")),
    ];
    for (key, value) in cases {
        let folder = Folder::new(key);
        write_adapter(&folder.0, &adapter()).unwrap();
        folder.set(key, value);
        let error = read_adapter_info(&folder.0).unwrap_err();
        assert_eq!(error.code, ErrorCode::AdapterUnsupported, "{key}");
        assert!(error.message.contains(key), "{error}");
    }
}

#[test]
fn another_base_is_found_by_hash_by_name_and_by_shape() {
    let folder = Folder::new("mismatch");
    write_adapter(&folder.0, &adapter()).unwrap();
    let error = read_adapter(&folder.0, &config(), Some("other")).unwrap_err();
    assert_eq!(error.code, ErrorCode::AdapterMismatch);
    assert!(error.message.contains("abc") && error.message.contains("other"), "{error}");

    let (accepted, info) = read_adapter(&folder.0, &config(), None).unwrap();
    assert_eq!((accepted, info.metadata), (adapter(), adapter().metadata));

    let shallow = ModelConfig { num_hidden_layers: 1, ..config() };
    let error = read_adapter(&folder.0, &shallow, Some("abc")).unwrap_err();
    assert_eq!(error.code, ErrorCode::AdapterMismatch);
    assert!(error.message.contains("`model.layers.1.mlp.down_proj`"), "{error}");

    let wide = ModelConfig { intermediate_size: 16, ..config() };
    let error = read_adapter(&folder.0, &wide, Some("abc")).unwrap_err();
    assert_eq!(error.code, ErrorCode::AdapterMismatch);
    let expected = "`base_model.model.model.layers.1.mlp.down_proj.lora_A.weight`: expected [4, 16], found [4, 12]";
    assert!(error.message.contains(expected), "{error}");
}

#[test]
fn broken_files_are_corrupt_and_missing_ones_not_found() {
    let folder = Folder::new("broken");
    assert_eq!(code(&folder), ErrorCode::AdapterNotFound);
    write_adapter(&folder.0, &adapter()).unwrap();
    let weights = std::fs::read(folder.0.join(WEIGHTS_FILE)).unwrap();
    for length in [0, 7, 8, weights.len() / 2, weights.len() - 1] {
        std::fs::write(folder.0.join(WEIGHTS_FILE), &weights[..length]).unwrap();
        assert_eq!(code(&folder), ErrorCode::AdapterCorrupt, "cut to {length} bytes");
    }
    std::fs::remove_file(folder.0.join(WEIGHTS_FILE)).unwrap();
    assert_eq!(code(&folder), ErrorCode::AdapterNotFound);
    std::fs::write(folder.0.join("adapter_model.bin"), b"x").unwrap();
    let error = read_adapter(&folder.0, &config(), None).unwrap_err();
    assert_eq!(error.code, ErrorCode::AdapterCorrupt);
    assert!(error.message.contains("adapter_model.bin: not a complete file of torch's"), "{error}");
    // The newer file is the one that counts.
    write_adapter(&folder.0, &adapter()).unwrap();
    assert_eq!(read_adapter(&folder.0, &config(), None).unwrap().0, adapter());
    std::fs::write(folder.0.join(CONFIG_FILE), b"{").unwrap();
    assert_eq!(code(&folder), ErrorCode::AdapterCorrupt);
}

#[test]
fn numbers_that_are_not_finite_and_a_wrong_rank_are_corrupt() {
    let folder = Folder::new("not-finite");
    let mut bad = adapter();
    bad.modules.get_mut("model.layers.1.mlp.down_proj").unwrap().b[3] = f32::NAN;
    write_adapter(&folder.0, &bad).unwrap();
    let error = read_adapter_info(&folder.0).unwrap_err();
    assert_eq!(error.code, ErrorCode::AdapterCorrupt);
    assert!(error.message.contains("down_proj.lora_B.weight` holds NaN at index 3"), "{error}");

    write_adapter(&folder.0, &adapter()).unwrap();
    folder.set("r", json!(3));
    let error = read_adapter_info(&folder.0).unwrap_err();
    assert_eq!(error.code, ErrorCode::AdapterCorrupt);
    let expected = "`base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`: expected [3, 8] with r = 3";
    assert!(error.message.contains(expected) && error.message.ends_with("found [2, 8]"), "{error}");
}

#[test]
fn names_that_are_no_plain_lora_are_refused() {
    let folder = Folder::new("names");
    let mut odd = adapter();
    let matrices = odd.modules["model.layers.0.self_attn.q_proj"].clone();
    odd.modules.insert("lm_head".to_owned(), matrices);
    let names = LoraTargets::named(["q_proj", "down_proj", "lm_head"]);
    odd.targets = LoraTargets { rank_pattern: odd.targets.rank_pattern, ..names };
    write_adapter(&folder.0, &odd).unwrap();
    assert_eq!(code(&folder), ErrorCode::AdapterUnsupported);
}

#[cfg(unix)]
#[test]
fn a_folder_that_cannot_be_written_is_an_io_error_and_a_full_disk_its_own() {
    let error = write_adapter(std::path::Path::new("/proc/self/nowhere"), &adapter()).unwrap_err();
    assert_eq!(error.code, ErrorCode::Io);
    // Every write to this device fails with "no space left".
    let folder = Folder::new("full");
    let temporary = folder.0.join(format!(".{WEIGHTS_FILE}.{}.tmp", std::process::id()));
    if cfg!(target_os = "linux") {
        std::os::unix::fs::symlink("/dev/full", &temporary).unwrap();
        assert_eq!(write_adapter(&folder.0, &adapter()).unwrap_err().code, ErrorCode::StorageFull);
        assert!(!temporary.exists() && !folder.0.join(CONFIG_FILE).exists());
    }
}

/// Baichuan's W_pack: three parts of eight rows each.
fn fused_config() -> ModelConfig {
    ModelConfig { model_type: "baichuan".to_owned(), num_key_value_heads: 2, ..config() }
}

/// Parts of these ranks whose A's differ, as training leaves them; all with the scale 8.
fn fused_adapter(parts: &[(&str, usize)]) -> PeftAdapter {
    let matrices = |r: usize, base: f32| LoraMatrices {
        r,
        scale: 8.0,
        in_features: 8,
        out_features: 8,
        a: (0..r * 8).map(|i| base + i as f32).collect(),
        b: (0..8 * r).map(|i| base - i as f32 / 3.0).collect(),
    };
    let path = |part: &str| format!("model.layers.1.self_attn.{part}");
    let modules = parts.iter().zip([0.5, 1.5, -2.5]).map(|((part, r), base)| (path(part), matrices(*r, base)));
    let targets = LoraTargets::named(parts.iter().map(|(part, _)| *part));
    PeftAdapter { modules: modules.collect(), targets, names: PeftNames::new(&fused_config()), ..adapter() }
}

#[test]
fn parts_of_a_fused_layer_are_joined_and_come_back() {
    let cases = [
        ("all", [("q_proj", 2), ("k_proj", 2), ("v_proj", 2)], 6),
        ("ranks", [("q_proj", 1), ("k_proj", 4), ("v_proj", 2)], 7),
        ("some", [("q_proj", 2), ("v_proj", 3), ("o_proj", 2)], 5),
    ];
    for (name, parts, rank) in cases {
        let (folder, mut adapter) = (Folder::new(&format!("fused-{name}")), fused_adapter(&parts));
        for use_rslora in [false, true] {
            adapter.use_rslora = use_rslora;
            write_adapter(&folder.0, &adapter).unwrap();
            let read = read_adapter(&folder.0, &fused_config(), Some("abc")).unwrap().0;
            assert_eq!(read.modules.len(), 3, "{name}");
            for (path, expected) in &adapter.modules {
                let found = &read.modules[path];
                assert!((found.scale - expected.scale).abs() < 1e-12, "{name} {path}: {}", found.scale);
                assert_eq!(&LoraMatrices { scale: expected.scale, ..found.clone() }, expected, "{name} {path}");
            }
            // To PEFT it is an adapter of the model's own layer, of a higher rank and with the same scale.
            let config: Value = serde_json::from_slice(&std::fs::read(folder.0.join(CONFIG_FILE)).unwrap()).unwrap();
            assert_eq!((&config["r"], &config["rank_pattern"]), (&json!(2), &json!({"W_pack": rank})), "{name}");
            let alpha = config["alpha_pattern"]["W_pack"].as_f64().unwrap();
            let scale = alpha / if use_rslora { f64::from(rank).sqrt() } else { f64::from(rank) };
            assert!((scale - 8.0).abs() < 1e-12, "{name}: {scale}");
            // Of two blocks, one has it.
            let targets = config["target_modules"].as_array().unwrap();
            assert!(targets.contains(&json!("model.layers.1.self_attn.W_pack")), "{name}: {targets:?}");
        }
    }
}

/// B · A of the joined layer is that of its parts, row by row.
#[test]
fn a_joined_layer_computes_what_its_parts_do() {
    let adapter = fused_adapter(&[("q_proj", 2), ("k_proj", 3), ("v_proj", 1)]);
    let joined = adapter.names.join(&adapter.modules).unwrap();
    let matrices = &joined.modules["model.layers.1.self_attn.W_pack"];
    assert_eq!((matrices.r, matrices.out_features), (6, 24));
    let product = |matrices: &LoraMatrices, row: usize, column: usize| -> f32 {
        let LoraMatrices { r, in_features, a, b, .. } = matrices;
        (0..*r).map(|k| b[row * r + k] * a[k * in_features + column]).sum()
    };
    for (index, part) in ["q_proj", "k_proj", "v_proj"].into_iter().enumerate() {
        let own = &adapter.modules[&format!("model.layers.1.self_attn.{part}")];
        for (row, column) in (0..8).flat_map(|row| (0..8).map(move |column| (row, column))) {
            assert_eq!(product(matrices, index * 8 + row, column), product(own, row, column));
        }
    }
}

#[test]
fn what_is_not_of_joined_parts_is_read_whole_or_refused() {
    let folder = Folder::new("fused-rank");
    write_adapter(&folder.0, &fused_adapter(&[("q_proj", 2), ("k_proj", 2), ("v_proj", 2)])).unwrap();
    // Of another model, the rows do not fit.
    let grouped = ModelConfig { num_key_value_heads: 1, ..fused_config() };
    let error = read_adapter(&folder.0, &grouped, Some("abc")).unwrap_err();
    assert_eq!(error.code, ErrorCode::AdapterMismatch);
    assert!(error.message.contains("W_pack.lora_B.weight`: expected [16, 6], found [24, 6]"), "{error}");
    // Numbers outside the blocks: every part has the whole A.
    let path = folder.0.join(WEIGHTS_FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 4 * 6;
    let zeros = bytes.len() - 4 * 6..bytes.len() - 4 * 2;
    assert!(bytes[zeros].iter().all(|byte| *byte == 0), "the last row of B begins with zeros");
    bytes[last..last + 4].copy_from_slice(&1f32.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let read = read_adapter(&folder.0, &fused_config(), Some("abc")).unwrap().0;
    let [k, q, v] = ["k", "q", "v"].map(|part| &read.modules[&format!("model.layers.1.self_attn.{part}_proj")]);
    assert!([k, q, v].iter().all(|part| part.r == 6 && part.scale == 8.0 && part.a == q.a));
    assert_eq!(v.b[7 * 6], 1.0);
}

#[test]
fn parts_of_a_fused_layer_have_one_scale() {
    let folder = Folder::new("fused-scale");
    let mut adapter = fused_adapter(&[("q_proj", 2), ("k_proj", 2), ("v_proj", 2)]);
    adapter.modules.get_mut("model.layers.1.self_attn.k_proj").unwrap().scale = 4.0;
    let error = write_adapter(&folder.0, &adapter).unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    assert!(error.message.contains("k_proj") && error.message.contains("W_pack"), "{error}");
}

#[test]
fn targets_may_have_the_familys_names() {
    use crate::lora::{LoraConfig, LoraLayout};
    let lora = |targets: LoraTargets| LoraConfig {
        r: 2,
        lora_alpha: 4.0,
        lora_dropout: 0.0,
        targets,
        use_rslora: false,
        seed: 0,
    };
    let layout = |targets: LoraTargets| LoraLayout::for_config(&fused_config(), &lora(targets)).unwrap();
    let names = |targets: &[&str]| layout(LoraTargets::named(targets.iter().copied())).target_modules();
    assert_eq!(names(&["W_pack", "down_proj"]), ["q_proj", "k_proj", "v_proj", "down_proj"]);
    assert_eq!(names(&["k_proj"]), ["k_proj"]);
    let without = |names: ModuleNames| LoraTargets { exclude_modules: Some(names), ..LoraTargets::default() };
    let rest = ["o_proj", "gate_proj", "up_proj", "down_proj"];
    assert_eq!(layout(without(ModuleNames::Names(vec!["W_pack".to_owned()]))).target_modules(), rest);
    assert_eq!(layout(without(ModuleNames::Pattern(".*W_pack".to_owned()))).target_modules(), rest);
    // A rank of one part changes its scale, unless its alpha goes with it.
    let ranks = |key: &str| LoraTargets {
        rank_pattern: BTreeMap::from([(key.to_owned(), 6)]),
        ..LoraTargets::named(["W_pack"])
    };
    assert!(layout(ranks("W_pack")).modules().all(|module| module.r == 6));
    let error = LoraLayout::for_config(&fused_config(), &lora(ranks("k_proj"))).unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    assert!(error.message.contains("k_proj") && error.message.contains("W_pack"), "{error}");
    let alpha_pattern = BTreeMap::from([("k_proj".to_owned(), 12.0)]);
    layout(LoraTargets { alpha_pattern, ..ranks("k_proj") });
}
