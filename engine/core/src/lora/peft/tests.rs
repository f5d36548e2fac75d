use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::config::{ModelConfig, Variant};
use crate::error::ErrorCode;

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
    let matrices = |in_features: usize, out_features: usize, base: f32| LoraMatrices {
        in_features,
        out_features,
        a: (0..2 * in_features).map(|i| base + i as f32).collect(),
        b: (0..out_features * 2).map(|i| base - i as f32 / 3.0).collect(),
    };
    PeftAdapter {
        r: 2,
        lora_alpha: 16.0,
        lora_dropout: 0.05,
        use_rslora: false,
        modules: BTreeMap::from([
            ("model.layers.0.self_attn.q_proj".to_owned(), matrices(8, 8, 0.5)),
            ("model.layers.1.mlp.down_proj".to_owned(), matrices(12, 8, -1.5)),
        ]),
        names: PeftNames::new(&config()),
        metadata: Some(AdapterMetadata {
            base_model_name: "tiny".to_owned(),
            base_model_hash: "abc".to_owned(),
            template_id: "concat@1".to_owned(),
            template_hash: "def".to_owned(),
        }),
    }
}

fn code(folder: &Folder) -> ErrorCode {
    read_adapter(&folder.0, &config(), "abc").unwrap_err().code
}

#[test]
fn an_adapter_comes_back_as_it_was_written() {
    let folder = Folder::new("round-trip");
    let saved = write_adapter(&folder.0, &adapter()).unwrap();
    let (read, info) = read_adapter(&folder.0, &config(), "abc").unwrap();
    assert_eq!(read, adapter());
    assert_eq!(info, read_adapter_info(&folder.0).unwrap());
    assert_eq!(info.sha256, saved.sha256);
    assert_eq!(info.target_modules, ["q_proj", "down_proj"]);
    assert_eq!(info.parameter_count, (2 * 8 + 8 * 2) + (2 * 12 + 8 * 2));
    assert_eq!(read.scale(), 8.0);
    let files: Vec<_> = std::fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files.len(), 2, "only the two files are left: {files:?}");
    let bytes: u64 = [CONFIG_FILE, WEIGHTS_FILE].iter().map(|name| folder.0.join(name).metadata().unwrap().len()).sum();
    assert_eq!(bytes, saved.bytes);
}

#[test]
fn rank_stabilised_scaling_divides_by_the_root() {
    let adapter = PeftAdapter { use_rslora: true, r: 16, lora_alpha: 8.0, ..adapter() };
    assert_eq!(adapter.scale(), 2.0);
}

#[test]
fn any_form_of_target_modules_and_unknown_keys_are_accepted() {
    let folder = Folder::new("targets");
    write_adapter(&folder.0, &adapter()).unwrap();
    for targets in [json!("all-linear"), json!(".*(q_proj|down_proj)$"), json!(["q_proj"]), Value::Null] {
        folder.set("target_modules", targets);
        folder.set("a_key_of_the_future", json!({"x": 1}));
        assert_eq!(read_adapter(&folder.0, &config(), "abc").unwrap().1.target_modules, ["q_proj", "down_proj"]);
    }
}

#[test]
fn variants_of_lora_are_refused_by_name() {
    let cases = [
        ("use_dora", json!(true)),
        ("lora_bias", json!(true)),
        ("modules_to_save", json!(["lm_head"])),
        ("rank_pattern", json!({"q_proj": 4})),
        ("alpha_pattern", json!({"q_proj": 4})),
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
    let error = read_adapter(&folder.0, &config(), "other").unwrap_err();
    assert_eq!(error.code, ErrorCode::AdapterMismatch);
    assert!(error.message.contains("abc") && error.message.contains("other"), "{error}");

    let shallow = ModelConfig { num_hidden_layers: 1, ..config() };
    let error = read_adapter(&folder.0, &shallow, "abc").unwrap_err();
    assert_eq!(error.code, ErrorCode::AdapterMismatch);
    assert!(error.message.contains("`model.layers.1.mlp.down_proj`"), "{error}");

    let wide = ModelConfig { intermediate_size: 16, ..config() };
    let error = read_adapter(&folder.0, &wide, "abc").unwrap_err();
    assert_eq!(error.code, ErrorCode::AdapterMismatch);
    let expected = "`base_model.model.model.layers.1.mlp.down_proj.lora_A.weight`: expected [2, 16], found [2, 12]";
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
    assert_eq!(code(&folder), ErrorCode::AdapterUnsupported);
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
    folder.set("r", json!(4));
    let error = read_adapter_info(&folder.0).unwrap_err();
    assert_eq!(error.code, ErrorCode::AdapterCorrupt);
    assert!(error.message.contains("r = 4"), "{error}");
}

#[test]
fn names_that_are_no_plain_lora_are_refused() {
    let folder = Folder::new("names");
    let mut odd = adapter();
    let matrices = odd.modules["model.layers.0.self_attn.q_proj"].clone();
    odd.modules.insert("lm_head".to_owned(), matrices);
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

/// Parts whose A's differ, as training leaves them; one of them without an adapter.
fn fused_adapter(parts: &[&str]) -> PeftAdapter {
    let matrices = |base: f32| LoraMatrices {
        in_features: 8,
        out_features: 8,
        a: (0..16).map(|i| base + i as f32).collect(),
        b: (0..16).map(|i| base - i as f32 / 3.0).collect(),
    };
    let path = |part: &str| format!("model.layers.1.self_attn.{part}");
    let modules = parts.iter().zip([0.5, 1.5, -2.5]).map(|(part, base)| (path(part), matrices(base)));
    PeftAdapter { modules: modules.collect(), names: PeftNames::new(&fused_config()), ..adapter() }
}

#[test]
fn parts_of_a_fused_layer_are_joined_and_come_back() {
    for (name, parts) in [("all", &["q_proj", "k_proj", "v_proj"][..]), ("some", &["q_proj", "v_proj", "o_proj"])] {
        let (folder, adapter) = (Folder::new(&format!("fused-{name}")), fused_adapter(parts));
        for use_rslora in [false, true] {
            let adapter = PeftAdapter { use_rslora, ..adapter.clone() };
            write_adapter(&folder.0, &adapter).unwrap();
            assert_eq!(read_adapter(&folder.0, &fused_config(), "abc").unwrap().0, adapter, "{name}");
            // To PEFT it is an adapter of the model's own layer, of a higher rank and with the same scale.
            let config: Value = serde_json::from_slice(&std::fs::read(folder.0.join(CONFIG_FILE)).unwrap()).unwrap();
            assert_eq!((&config["r"], &config["rank_pattern"]), (&json!(2), &json!({"W_pack": 6})));
            let alpha = config["alpha_pattern"]["W_pack"].as_f64().unwrap();
            let scale = alpha / if use_rslora { 6f64.sqrt() } else { 6.0 };
            assert!((scale - adapter.scale()).abs() < 1e-12, "{name}: {scale}");
        }
    }
}

/// B · A of the joined layer is that of its parts, row by row.
#[test]
fn a_joined_layer_computes_what_its_parts_do() {
    let adapter = fused_adapter(&["q_proj", "k_proj", "v_proj"]);
    let joined = adapter.names.join(&adapter.modules, 2);
    let fused::FileModule { rank, matrices } = &joined["model.layers.1.self_attn.W_pack"];
    assert_eq!((*rank, matrices.out_features), (6, 24));
    let product = |matrices: &LoraMatrices, rank: usize, row: usize, column: usize| -> f32 {
        (0..rank).map(|k| matrices.b[row * rank + k] * matrices.a[k * matrices.in_features + column]).sum()
    };
    for (index, part) in ["q_proj", "k_proj", "v_proj"].into_iter().enumerate() {
        let own = &adapter.modules[&format!("model.layers.1.self_attn.{part}")];
        for (row, column) in (0..8).flat_map(|row| (0..8).map(move |column| (row, column))) {
            assert_eq!(product(matrices, 6, index * 8 + row, column), product(own, 2, row, column));
        }
    }
}

#[test]
fn ranks_that_are_not_of_joined_parts_are_refused() {
    let folder = Folder::new("fused-rank");
    write_adapter(&folder.0, &fused_adapter(&["q_proj", "k_proj", "v_proj"])).unwrap();
    // Of another model, the rows do not fit.
    let grouped = ModelConfig { num_key_value_heads: 1, ..fused_config() };
    let error = read_adapter(&folder.0, &grouped, "abc").unwrap_err();
    assert_eq!(error.code, ErrorCode::AdapterUnsupported);
    assert!(error.message.contains("24 rows; the model's layer has 16"), "{error}");
    // Numbers outside the blocks: a rank of its own.
    let path = folder.0.join(WEIGHTS_FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 4 * 6;
    let zeros = bytes.len() - 4 * 6..bytes.len() - 4 * 2;
    assert!(bytes[zeros].iter().all(|byte| *byte == 0), "the last row of B begins with zeros");
    bytes[last..last + 4].copy_from_slice(&1f32.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let error = read_adapter(&folder.0, &fused_config(), "abc").unwrap_err();
    assert_eq!(error.code, ErrorCode::AdapterUnsupported);
    assert!(error.message.contains("its rank is 6, that of others 2"), "{error}");
}

#[test]
fn targets_may_have_the_familys_names() {
    use crate::lora::LoraLayout;
    let layout = |targets: &[&str]| {
        let targets: Vec<String> = targets.iter().map(|target| (*target).to_owned()).collect();
        LoraLayout::for_targets(&fused_config(), 2, Some(&targets)).unwrap().target_modules()
    };
    assert_eq!(layout(&["W_pack", "down_proj"]), ["q_proj", "k_proj", "v_proj", "down_proj"]);
    assert_eq!(layout(&["k_proj"]), ["k_proj"]);
}
