//! Hugging Face folders.

use luthier_core::load::{self, TokenizerSource};
use luthier_core::{ErrorCode, StoredType};
use serde_json::{Value, json};

use crate::support::{Folder, TinyModel, f32_bytes, refused};

fn write(folder: &Folder, model: &TinyModel, config: &Value) {
    folder.file("config.json", config.to_string().as_bytes());
    folder.file("model.safetensors", &model.safetensors(|_| true));
}

fn write_shards(folder: &Folder, model: &TinyModel) {
    folder.file("config.json", model.config_json().to_string().as_bytes());
    let first = |name: &str| name.contains("layers.0");
    folder.file("model-00001-of-00002.safetensors", &model.safetensors(first));
    folder.file("model-00002-of-00002.safetensors", &model.safetensors(|name| !first(name)));
    let shard = |name: &String| json!(format!("model-0000{}-of-00002.safetensors", if first(name) { 1 } else { 2 }));
    let map: serde_json::Map<String, Value> = model.tensors.keys().map(|name| (name.clone(), shard(name))).collect();
    folder.file("model.safetensors.index.json", json!({"metadata": {}, "weight_map": map}).to_string().as_bytes());
}

#[test]
fn one_file_and_shards_give_the_same_model() {
    let model = TinyModel::new(false);
    let (single, sharded) = (Folder::new("hf-single"), Folder::new("hf-shards"));
    write(&single, &model, &model.config_json());
    write_shards(&sharded, &model);
    let mut hashes = Vec::new();
    for folder in [&single, &sharded] {
        let files = load::open(&folder.0).unwrap();
        assert_eq!(files.config(), &model.config);
        for (name, (shape, values)) in &model.tensors {
            let tensor = files.tensor(name).unwrap();
            assert_eq!((tensor.stored, &tensor.shape), (StoredType::F32, shape));
            assert!(tensor.bytes.as_slice() == f32_bytes(values), "{name}");
            assert_eq!(tensor.bytes.as_slice().as_ptr() as usize % 4, 0, "{name} is aligned");
        }
        let metadata = files.metadata().unwrap();
        assert_eq!((metadata.format.as_str(), metadata.storage_type.as_str()), ("safetensors", "f32"));
        assert_eq!(metadata.name, folder.0.file_name().unwrap().to_str().unwrap());
        assert_eq!(metadata.tokenizer, TokenizerSource::HuggingFace(folder.0.clone()));
        hashes.push(metadata.content_hash);
    }
    assert_eq!(hashes[0], hashes[1]);
}

#[test]
fn a_gguf_file_of_the_same_weights_has_the_same_tensors() {
    let model = TinyModel::new(true);
    let folder = Folder::new("hf-and-gguf");
    write(&folder, &model, &model.config_json());
    let hugging_face = load::open(&folder.0).unwrap();
    let gguf = load::open(&folder.file("tiny.gguf", &model.gguf().bytes())).unwrap();
    for name in model.tensors.keys() {
        assert!(
            hugging_face.tensor(name).unwrap().bytes.as_slice() == gguf.tensor(name).unwrap().bytes.as_slice(),
            "{name}"
        );
    }
}

#[test]
fn end_of_sequence_ids_come_from_the_generation_configuration_first() {
    let model = TinyModel::new(true);
    let folder = Folder::new("hf-eos");
    write(&folder, &model, &model.config_json());
    folder.file("generation_config.json", br#"{"eos_token_id": [7, 9]}"#);
    assert_eq!(load::open(&folder.0).unwrap().config().eos_token_ids, [7, 9]);
    folder.file("generation_config.json", b"{}");
    assert_eq!(load::open(&folder.0).unwrap().config().eos_token_ids, [2]);
}

#[test]
fn the_base_of_rotary_positions_is_found_in_both_places() {
    let model = TinyModel::new(true);
    let folder = Folder::new("hf-rope");
    let mut config = model.config_json();
    config.as_object_mut().unwrap().remove("rope_theta");
    config["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 5000.0});
    write(&folder, &model, &config);
    assert_eq!(load::open(&folder.0).unwrap().config().rope_theta, 5000.0);
}

#[test]
fn a_sliding_window_is_mistrals_alone() {
    let model = TinyModel::new(true);
    let folder = Folder::new("hf-mistral");
    let mut config = model.config_json();
    let mut open = |kind: [&str; 2], window: Option<Value>| {
        (config["model_type"], config["architectures"]) = (json!(kind[0]), json!([kind[1]]));
        match window {
            Some(window) => config["sliding_window"] = window,
            None => drop(config.as_object_mut().unwrap().remove("sliding_window")),
        }
        write(&folder, &model, &config);
        let files = load::open(&folder.0).unwrap();
        assert_eq!(files.config().model_type, kind[0]);
        (files.config().sliding_window, files.metadata().unwrap().content_hash)
    };
    let (mistral, llama) = (["mistral", "MistralForCausalLM"], ["llama", "LlamaForCausalLM"]);
    let (window, hash) = open(mistral, Some(json!(5)));
    assert_eq!(window, Some(5));
    // As long as the context or longer: kept, though it hides nothing.
    assert_eq!(open(mistral, Some(json!(160))).0, Some(160));
    let (window, without) = open(mistral, Some(Value::Null));
    assert_eq!(window, None);
    assert_ne!(hash, without, "a window is part of what a model computes");
    // The default of transformers' MistralConfig.
    assert_eq!(open(mistral, None).0, Some(4096));
    assert_eq!(open(llama, Some(json!(5))).0, None);
}

#[test]
fn what_the_decoder_does_not_compute_is_refused_by_name() {
    let model = TinyModel::new(true);
    for (index, (key, value, part)) in [
        ("model_type", json!("gemma"), "`gemma`"),
        // The class must be the type's own.
        ("model_type", json!("mistral"), "LlamaForCausalLM"),
        ("architectures", json!(["MistralForCausalLM"]), "MistralForCausalLM"),
        ("architectures", json!(["LlamaForSequenceClassification"]), "LlamaForSequenceClassification"),
        ("rope_scaling", json!({"rope_type": "yarn", "factor": 8.0}), "`yarn`"),
        ("rope_scaling", json!({"type": "dynamic", "factor": 2.0}), "`dynamic`"),
        ("rope_parameters", json!({"rope_type": "default", "partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        ("hidden_act", json!("gelu"), "gelu"),
        ("quantization_config", json!({"quant_method": "gptq"}), "gptq"),
    ]
    .into_iter()
    .enumerate()
    {
        let folder = Folder::new(&format!("hf-unsupported-{index}"));
        let mut config = model.config_json();
        config[key] = value;
        write(&folder, &model, &config);
        let error = refused(&folder.0);
        assert_eq!(error.code, ErrorCode::ModelUnsupported, "{error}");
        assert!(error.message.contains(part), "{error}");
    }
}

#[test]
fn truncated_files_and_missing_shards_are_corrupt() {
    let model = TinyModel::new(true);
    let folder = Folder::new("hf-truncated");
    write(&folder, &model, &model.config_json());
    let bytes = model.safetensors(|_| true);
    for length in [0, 5, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        folder.file("model.safetensors", &bytes[..length]);
        let error = refused(&folder.0);
        assert_eq!(error.code, ErrorCode::ModelCorrupt, "{length}: {error}");
        assert!(error.message.contains("model.safetensors"), "{error}");
    }
    let folder = Folder::new("hf-no-shard");
    write_shards(&folder, &model);
    std::fs::remove_file(folder.0.join("model-00002-of-00002.safetensors")).unwrap();
    let error = refused(&folder.0);
    assert_eq!(error.code, ErrorCode::ModelCorrupt);
    assert!(error.message.contains("model-00002-of-00002.safetensors"), "{error}");
    let map = json!({"weight_map": {"model.norm.weight": "../outside.safetensors"}});
    folder.file("model.safetensors.index.json", map.to_string().as_bytes());
    assert_eq!(refused(&folder.0).code, ErrorCode::ModelCorrupt);
}

#[test]
fn folders_that_are_no_model_are_not_found() {
    let folder = Folder::new("hf-empty");
    let error = refused(&folder.0);
    assert_eq!(error.code, ErrorCode::ModelNotFound);
    assert!(error.message.contains("config.json"), "{error}");
    folder.file("config.json", TinyModel::new(true).config_json().to_string().as_bytes());
    let error = refused(&folder.0);
    assert_eq!(error.code, ErrorCode::ModelNotFound);
    assert!(error.message.contains("safetensors"), "{error}");
}

#[test]
fn a_misnamed_tensor_is_listed_with_its_nearest_name() {
    let mut model = TinyModel::new(true);
    let tensor = model.tensors.remove("model.layers.1.mlp.up_proj.weight").unwrap();
    model.tensors.insert("model.layers.1.mlp.up_prj.weight".to_owned(), tensor);
    let folder = Folder::new("hf-names");
    write(&folder, &model, &model.config_json());
    let error = refused(&folder.0);
    assert_eq!(error.code, ErrorCode::ModelCorrupt);
    let expected =
        "missing tensors: `model.layers.1.mlp.up_proj.weight` [64, 32] (nearest: `model.layers.1.mlp.up_prj.weight`)";
    assert!(error.message.contains(expected), "{error}");
}

#[test]
fn configurations_that_are_nonsense_are_corrupt() {
    let model = TinyModel::new(true);
    for (index, (key, value)) in [
        ("hidden_size", json!("wide")),
        ("hidden_size", json!(-1)),
        ("hidden_size", Value::Null),
        ("num_hidden_layers", json!(u64::MAX)),
        ("num_attention_heads", json!(0)),
        ("num_key_value_heads", json!(3)),
        ("rms_norm_eps", json!("small")),
        ("eos_token_id", json!([96])),
        ("vocab_size", json!(95)),
    ]
    .into_iter()
    .enumerate()
    {
        let folder = Folder::new(&format!("hf-nonsense-{index}"));
        let mut config = model.config_json();
        config[key] = value;
        write(&folder, &model, &config);
        assert_eq!(refused(&folder.0).code, ErrorCode::ModelCorrupt, "{key}");
    }
    for (index, window) in [json!(0), json!(-1), json!("long"), json!(u64::MAX)].into_iter().enumerate() {
        let folder = Folder::new(&format!("hf-window-{index}"));
        let mut config = model.config_json();
        (config["model_type"], config["architectures"]) = (json!("mistral"), json!(["MistralForCausalLM"]));
        config["sliding_window"] = window;
        write(&folder, &model, &config);
        let error = refused(&folder.0);
        assert_eq!(error.code, ErrorCode::ModelCorrupt, "{error}");
        assert!(error.message.contains("sliding_window"), "{error}");
    }
    let folder = Folder::new("hf-no-json");
    folder.file("config.json", b"[1, 2");
    assert_eq!(refused(&folder.0).code, ErrorCode::ModelCorrupt);
}
