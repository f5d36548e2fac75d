//! Configurations and tensors of the families, beside what they mean.

use luthier_core::config::{PositionEncoding, Rope, RopePairs, RopeScaling, Variant};
use luthier_core::load;
use luthier_core::{ErrorCode, ModelConfig};
use serde_json::{Value, json};

use crate::support::{Folder, TinyModel, refused};

/// Opens a folder with this configuration and the given tensors: zeros of these names and shapes.
fn folder(name: &str, config: &Value, tensors: &[(&str, Vec<usize>)]) -> Folder {
    let folder = Folder::new(name);
    folder.file("config.json", config.to_string().as_bytes());
    let mut model = TinyModel::new(true);
    let numbers = |shape: &[usize]| (0..shape.iter().product()).map(|number| number as f32).collect();
    model.tensors = tensors.iter().map(|(name, shape)| ((*name).to_owned(), (shape.clone(), numbers(shape)))).collect();
    folder.file("model.safetensors", &model.safetensors(|_| true));
    folder
}

fn changed(mut config: Value, changes: &[(&str, Value)]) -> Value {
    for (name, value) in changes {
        config[*name] = value.clone();
    }
    config
}

fn baichuan() -> (Value, Vec<(&'static str, Vec<usize>)>) {
    let config = json!({
        "model_type": "baichuan", "architectures": ["BaichuanForCausalLM"], "vocab_size": 10, "hidden_size": 8,
        "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "rms_norm_eps": 1e-6,
        "model_max_length": 64, "eos_token_id": 2,
    });
    let tensors = vec![
        ("model.embed_tokens.weight", vec![10, 8]),
        ("model.norm.weight", vec![8]),
        ("lm_head.weight", vec![10, 8]),
        ("model.layers.0.input_layernorm.weight", vec![8]),
        ("model.layers.0.post_attention_layernorm.weight", vec![8]),
        ("model.layers.0.self_attn.W_pack.weight", vec![24, 8]),
        ("model.layers.0.self_attn.o_proj.weight", vec![8, 8]),
        ("model.layers.0.mlp.gate_proj.weight", vec![12, 8]),
        ("model.layers.0.mlp.up_proj.weight", vec![12, 8]),
        ("model.layers.0.mlp.down_proj.weight", vec![8, 12]),
    ];
    (config, tensors)
}

fn chatglm() -> (Value, Vec<(&'static str, Vec<usize>)>) {
    let config = json!({
        "model_type": "chatglm", "architectures": ["ChatGLMModel"], "padded_vocab_size": 10, "hidden_size": 16,
        "ffn_hidden_size": 12, "num_layers": 1, "num_attention_heads": 4, "kv_channels": 4, "multi_query_attention": true,
        "multi_query_group_num": 2, "add_qkv_bias": true, "layernorm_epsilon": 1e-5, "seq_length": 64, "eos_token_id": 2,
    });
    let tensors = vec![
        ("transformer.embedding.word_embeddings.weight", vec![10, 16]),
        ("transformer.encoder.final_layernorm.weight", vec![16]),
        ("transformer.output_layer.weight", vec![10, 16]),
        ("transformer.rotary_pos_emb.inv_freq", vec![1]),
        ("transformer.encoder.layers.0.input_layernorm.weight", vec![16]),
        ("transformer.encoder.layers.0.post_attention_layernorm.weight", vec![16]),
        ("transformer.encoder.layers.0.self_attention.query_key_value.weight", vec![32, 16]),
        ("transformer.encoder.layers.0.self_attention.query_key_value.bias", vec![32]),
        ("transformer.encoder.layers.0.self_attention.dense.weight", vec![16, 16]),
        ("transformer.encoder.layers.0.mlp.dense_h_to_4h.weight", vec![24, 16]),
        ("transformer.encoder.layers.0.mlp.dense_4h_to_h.weight", vec![16, 12]),
    ];
    (config, tensors)
}

fn opened(name: &str, (config, tensors): &(Value, Vec<(&str, Vec<usize>)>), changes: &[(&str, Value)]) -> ModelConfig {
    load::open(&folder(name, &changed(config.clone(), changes), tensors).0).unwrap().config().clone()
}

/// The four published kinds are told apart.
#[test]
fn baichuans() {
    let alibi = |config: &ModelConfig| config.variant.position == PositionEncoding::Alibi;
    let model = baichuan();
    let first = opened("b-7b", &model, &[("architectures", json!(["BaiChuanForCausalLM"]))]);
    assert_eq!(first.variant, Variant::default());
    let second = [("max_position_embeddings", json!(64)), ("z_loss_weight", json!(0))];
    let second = opened("b2-7b", &model, &second);
    assert_eq!(second.variant, Variant { normalized_head: true, ..Variant::default() });
    let wide = opened("b-13b", &model, &[]);
    assert!(alibi(&wide) && !wide.variant.normalized_head);
    assert_eq!(wide.max_position_embeddings, 64);
    let wide = opened("b2-13b", &model, &[("z_loss_weight", json!(0.0))]);
    assert!(alibi(&wide) && wide.variant.normalized_head);
}

#[test]
fn rows_of_fused_tensors_are_views_of_them() {
    let (config, tensors) = baichuan();
    let folder = folder("b-views", &config, &tensors);
    let files = load::open(&folder.0).unwrap();
    let row = |name: &str| {
        let tensor = files.tensor(&format!("model.layers.0.self_attn.{name}.weight")).unwrap();
        assert_eq!(tensor.shape, [8, 8]);
        f32::from_le_bytes(tensor.bytes.as_slice()[..4].try_into().unwrap())
    };
    // Numbers count up from the first row.
    assert_eq!([row("q_proj"), row("k_proj"), row("v_proj")], [0.0, 64.0, 128.0]);
    assert!(files.form("model.layers.0.self_attn.k_proj.weight").unwrap().mapped, "nothing is copied");
    let metadata = files.metadata().unwrap();
    assert!(metadata.linear_modules.ends_with(&["down_proj".to_owned(), "W_pack".to_owned()]));
    let total: usize = tensors.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    assert_eq!(metadata.parameter_count, total as u64);
}

#[test]
fn chatglm_2_and_3() {
    let model = chatglm();
    let config = opened("glm", &model, &[]);
    let rope = Rope { pairs: RopePairs::Interleaved, rotated: Some(2), scaling: RopeScaling::None };
    let expected =
        Variant { position: PositionEncoding::Rope(rope.clone()), query_key_value_bias: true, ..Variant::default() };
    assert_eq!((config.variant.clone(), config.rope_theta, config.num_key_value_heads), (expected, 10_000.0, 2));
    // The ratio means two things.
    let longer = |name: &str| [("rope_ratio", json!(16)), ("_name_or_path", json!(name))];
    let second = opened("glm2-32k", &model, &longer("THUDM/chatglm2-6b-32k"));
    let scaled = Rope { scaling: RopeScaling::Linear { factor: 16.0 }, ..rope.clone() };
    assert_eq!((second.variant.position, second.rope_theta), (PositionEncoding::Rope(scaled), 10_000.0));
    let third = opened("glm3-32k", &model, &longer("THUDM/chatglm3-6b-32k"));
    assert_eq!((third.variant.position, third.rope_theta), (PositionEncoding::Rope(rope), 160_000.0));
    let unknown = refused(&folder("glm-unknown", &changed(model.0.clone(), &longer("mine")), &model.1).0);
    assert_eq!(unknown.code, ErrorCode::ModelUnsupported);
    assert!(unknown.message.contains("rope_ratio is 16"), "{unknown}");
}

#[test]
fn what_a_family_does_not_compute_is_refused_by_name() {
    let qwen2 = |config: Value| {
        changed(config, &[("model_type", json!("qwen2")), ("architectures", json!(["Qwen2ForCausalLM"]))])
    };
    let tiny = TinyModel::new(true).config_json();
    let window = [("use_sliding_window", json!(true)), ("sliding_window", json!(8)), ("max_window_layers", json!(1))];
    let cases = [
        (changed(chatglm().0, &[("position_encoding_2d", json!(true))]), "the first ChatGLM-6B"),
        (changed(chatglm().0, &[("quantization_bit", json!(4))]), "quantization_bit = 4"),
        (changed(chatglm().0, &[("multi_query_attention", json!(false))]), "multi_query_attention = false"),
        (changed(chatglm().0, &[("rmsnorm", json!(false))]), "rmsnorm = false"),
        (changed(baichuan().0, &[("z_loss_weight", json!(0.1))]), "z_loss_weight 0.1"),
        (changed(qwen2(tiny), &window), "layers 1 to 1"),
    ];
    for (index, (config, part)) in cases.into_iter().enumerate() {
        let error = refused(&folder(&format!("family-refused-{index}"), &config, &[]).0);
        assert_eq!(error.code, ErrorCode::ModelUnsupported, "{error}");
        assert!(error.message.contains(part), "{error}");
    }
}

#[test]
fn tensors_are_missed_by_the_familys_own_names() {
    let (config, mut tensors) = chatglm();
    tensors[7].0 = "transformer.encoder.layers.0.self_attention.query_key_value.bais";
    let error = refused(&folder("glm-names", &config, &tensors).0);
    assert_eq!(error.code, ErrorCode::ModelCorrupt);
    let name = "transformer.encoder.layers.0.self_attention.query_key_value";
    assert!(error.message.contains(&format!("`{name}.bias` [32] (nearest: `{name}.bais`)")), "{error}");
    // A bias that the configuration does not have.
    let (config, tensors) = chatglm();
    let error = refused(&folder("glm-surplus", &changed(config, &[("add_qkv_bias", json!(false))]), &tensors).0);
    assert!(error.message.contains(&format!("does not call for: `{name}.bias`")), "{error}");
}

/// What changes the numbers changes the hash; a default that is written out does not.
#[test]
fn the_content_hash_knows_the_variant() {
    let model = TinyModel::new(true);
    let hash = |name: &str, changes: &[(&str, Value)]| {
        let folder = Folder::new(name);
        folder.file("config.json", changed(model.config_json(), changes).to_string().as_bytes());
        folder.file("model.safetensors", &model.safetensors(|_| true));
        load::open(&folder.0).unwrap().metadata().unwrap().content_hash
    };
    let plain = hash("hash-plain", &[]);
    assert_eq!(plain, hash("hash-default", &[("rope_scaling", json!({"rope_type": "default"}))]));
    let linear = |factor: f64| [("rope_scaling", json!({"type": "linear", "factor": factor}))];
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    let hashes = [
        plain,
        hash("hash-linear-2", &linear(2.0)),
        hash("hash-linear-4", &linear(4.0)),
        hash("hash-llama3", &[("rope_scaling", llama3)]),
    ];
    for (index, hash) in hashes.iter().enumerate() {
        assert!(!hashes[..index].contains(hash));
    }
}

#[test]
fn rope_scaling_that_lacks_a_number_is_corrupt() {
    let model = TinyModel::new(true);
    let cases = [
        json!({"type": "linear"}),
        json!({"type": "linear", "factor": 0}),
        json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}),
        json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192}),
    ];
    for (index, scaling) in cases.into_iter().enumerate() {
        let folder = Folder::new(&format!("rope-corrupt-{index}"));
        let config = changed(model.config_json(), &[("rope_scaling", scaling)]);
        folder.file("config.json", config.to_string().as_bytes());
        let error = refused(&folder.0);
        assert_eq!(error.code, ErrorCode::ModelCorrupt, "{error}");
        assert!(error.message.contains("factor") || error.message.contains("original"), "{error}");
    }
}
