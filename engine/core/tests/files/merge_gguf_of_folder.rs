//! Hugging Face folders merged into GGUF files: sizes, rows, rope, and tokenizers as llama.cpp has them. With `LUTHIER_PARITY_OUT`, a folder, the
//! files stay there, for `test/parity/check_merged_gguf.py` to compute with llama.cpp.

use std::path::{Path, PathBuf};

use luthier_core::load::{self, GgufTokenizerMetadata, TokenizerSource};
use luthier_core::lora::peft::read_adapter;
use luthier_core::merge::{MergeFormat, MergeRequest, MergedModel, merge};
use luthier_core::quant::dequantize;
use luthier_core::{EngineError, ErrorCode, WeightStorage};
use serde_json::{Value, json};

use crate::merge::expected;
use crate::support::Folder;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../test/parity/golden").join(name)
}

/// sentencepiece's file of so many pieces: three control tokens, bytes where there is room for them, and words. `kind`: 2 is BPE.
fn sentencepiece(pieces: usize, kind: u8) -> Vec<u8> {
    let piece = |text: &str, score: f32, kind: u8| {
        let text_bytes = [&[10, text.len() as u8], text.as_bytes()].concat();
        let inner = [&text_bytes[..], &[21], &score.to_le_bytes(), &[24, kind]].concat();
        [&[10, inner.len() as u8], &inner[..]].concat()
    };
    let mut bytes = [piece("<unk>", 0.0, 2), piece("<s>", 0.0, 3), piece("</s>", 0.0, 3)].concat();
    let byte_count = if pieces > 259 { 256 } else { 0 };
    bytes.extend((0..byte_count).flat_map(|byte| piece(&format!("<0x{byte:02X}>"), 0.0, 6)));
    let words = ["▁", "a", "b", "▁a", "ab"].map(str::to_owned).into_iter().chain((0..).map(|n| format!("w{n}")));
    for (index, word) in words.take(pieces - 3 - byte_count).enumerate() {
        bytes.extend(piece(&word, -(index as f32), 1));
    }
    // The trainer: kind of model, and whether bytes stand in for what is unknown. The normalizer: spaces stay, as Llama's do.
    [&bytes[..], &[18, 5, 24, kind, 0x98, 2, u8::from(byte_count > 0)], &[26, 2, 32, 0]].concat()
}

/// Names and contents of files.
type Others<'a> = &'a [(&'a str, &'a [u8])];

/// A folder with copies of a golden model's files, and others.
fn base(folder: &Folder, model: &Path, others: Others<'_>) -> PathBuf {
    let base = folder.0.join("base");
    std::fs::create_dir_all(&base).unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(model.join(name), base.join(name)).unwrap();
    }
    others.iter().for_each(|(name, bytes)| std::fs::write(base.join(name), bytes).unwrap());
    base
}

fn merged(base: &Path, adapter: &Path, format: MergeFormat, out: &Path) -> Result<MergedModel, EngineError> {
    std::fs::create_dir_all(out).unwrap();
    let storage = WeightStorage::Stored;
    merge(&MergeRequest { base, base_hash: None, storage, adapter, format, shard_bytes: 1 << 30 }, out)
}

/// Where a test's files are written.
fn out(folder: &Folder, case: &str) -> PathBuf {
    std::env::var_os("LUTHIER_PARITY_OUT").map_or(folder.0.clone(), PathBuf::from).join(case)
}

fn tokenizer(path: &Path) -> GgufTokenizerMetadata {
    match load::open(path).unwrap().metadata().unwrap().tokenizer {
        TokenizerSource::Gguf(tokenizer) => *tokenizer,
        TokenizerSource::HuggingFace(folder) => panic!("{} is no GGUF file", folder.display()),
    }
}

/// Read back, every number is the sum, in Hugging Face's order of rows; the output layer is what the model multiplies with.
#[test]
fn families_are_written_as_llama_cpp_reads_them() {
    for (family, half_steps) in
        [("llama3", 0.0), ("linear", 0.0), ("qwen2", 0.0), ("qwen3", 0.0), ("baichuan2-7b", 0.0)]
            .into_iter()
            .chain([("llama3", 0.5)])
    {
        let folder = Folder::new(&format!("gguf-of-{family}-{half_steps}"));
        let model = golden("families").join(family);
        let base = base(&folder, &model.join("model"), &[("tokenizer.model", &sentencepiece(64, 2))]);
        let (adapter, blocks) = (model.join("init_adapter"), half_steps > 0.0);
        let format = if blocks { MergeFormat::GgufQ8_0 } else { MergeFormat::GgufF16 };
        let out = out(&folder, &format!("{family}-{}", format.name()));
        let found = merged(&base, &adapter, format, &out).unwrap();
        assert!(found.has_tokenizer);
        let path = out.join("model.gguf");
        assert_eq!(found.bytes, path.metadata().unwrap().len());
        let (before, after) = (load::open(&base).unwrap(), load::open(&path).unwrap());
        let (of_folder, of_file) = (before.config(), after.config());
        assert_eq!(of_folder.model_type, of_file.model_type);
        assert_eq!(of_folder.variant.position == of_file.variant.position, family != "llama3", "{family}");
        assert_eq!(
            (of_folder.num_key_value_heads, of_folder.head_dim),
            (of_file.num_key_value_heads, of_file.head_dim)
        );
        assert_eq!((of_file.variant.normalized_head, &of_file.eos_token_ids), (false, &vec![2]));
        let (peft, _) = read_adapter(&adapter, of_folder, None).unwrap();
        let mut compared = 0;
        for layer in 0..of_folder.num_hidden_layers {
            for module in ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down"]
            {
                let module = format!("model.layers.{layer}.{module}_proj");
                let numbers = dequantize(&before.tensor(&format!("{module}.weight")).unwrap());
                let found = dequantize(&after.tensor(&format!("{module}.weight")).unwrap());
                let sums = expected(&numbers, peft.modules.get(&module));
                let step = sums.iter().fold(0f64, |largest, sum| largest.max(sum.abs())) / 127.0;
                for (found, sum) in found.iter().zip(sums) {
                    let off = (f64::from(*found) - sum).abs();
                    let allowed = if blocks { step * half_steps * 1.2 } else { sum.abs() / 2048.0 + 1e-6 };
                    assert!(off <= allowed, "{family} {module}: {found}, expected {sum}");
                }
                if let Ok(bias) = before.tensor(&format!("{module}.bias")) {
                    let found = after.tensor(&format!("{module}.bias")).unwrap();
                    assert_eq!(dequantize(&found), dequantize(&bias), "{family} {module}");
                    compared += 1;
                }
            }
        }
        let biases = [("linear", 14), ("qwen2", 6)].into_iter().find(|(name, _)| *name == family);
        assert_eq!(compared, biases.map_or(0, |(_, count)| count));
        if family == "baichuan2-7b" {
            let head = dequantize(&after.tensor("lm_head.weight").unwrap());
            for row in head.chunks(of_file.hidden_size) {
                let norm = row.iter().map(|value| value * value).sum::<f32>().sqrt();
                assert!((norm - 1.0).abs() < 1e-3, "{norm}");
            }
        }
    }
}

/// Rope's factors are those of the scaling: the file's frequencies are the folder's.
#[test]
fn llama_3s_scaling_is_written_as_factors() {
    let folder = Folder::new("gguf-of-factors");
    let model = golden("families/llama3");
    let base = base(&folder, &model.join("model"), &[("tokenizer.model", &sentencepiece(64, 2))]);
    merged(&base, &model.join("init_adapter"), MergeFormat::GgufF16, &folder.0.join("out")).unwrap();
    let ours = load::open(&folder.0.join("out/model.gguf")).unwrap();
    // llama.cpp's formula, by `make_gguf.py`.
    let theirs = load::open(&golden("gguf/llama3.gguf")).unwrap();
    let factors = |config: &luthier_core::ModelConfig| match &config.variant.position {
        luthier_core::config::PositionEncoding::Rope(rope) => match &rope.scaling {
            luthier_core::config::RopeScaling::Factors(factors) => factors.to_vec(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    for (ours, theirs) in factors(ours.config()).iter().zip(factors(theirs.config())) {
        assert!((ours - theirs).abs() <= 1e-5 * theirs, "{ours}, expected {theirs}");
    }
}

#[test]
fn sentencepieces_vocabulary_is_written() {
    let folder = Folder::new("gguf-of-sentencepiece");
    let settings = json!({
        "bos_token": "<s>", "eos_token": {"content": "<|end|>"}, "add_bos_token": false, "chat_template": "{{ messages }}",
        "added_tokens_decoder": {"262": {"content": "<|end|>", "special": true}},
    });
    let files =
        [("tokenizer.model", &sentencepiece(262, 2)[..]), ("tokenizer_config.json", settings.to_string().as_bytes())]
            .map(|(name, bytes)| (name, bytes.to_vec()));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    let base = base(&folder, &golden("tied/model"), &files);
    let out = out(&folder, "sentencepiece");
    merged(&base, &golden("tied/init_adapter"), MergeFormat::GgufF16, &out).unwrap();
    if std::env::var_os("LUTHIER_PARITY_OUT").is_some() {
        std::fs::copy(base.join("tokenizer.model"), out.join("tokenizer.model")).unwrap();
    }
    let found = tokenizer(&out.join("model.gguf"));
    let rows = load::open(&base).unwrap().config().vocab_size;
    assert_eq!((found.model.as_str(), found.pre.as_deref(), found.tokens.len()), ("llama", Some("default"), rows));
    let (types, scores) = (found.token_types.unwrap(), found.scores.unwrap());
    assert_eq!([types[0], types[1], types[3], types[260], types[262], types[263]], [2, 3, 6, 1, 3, 5]);
    assert_eq!([scores[260], scores[262], scores[263]], [-1.0, -1000.0, -10_000.0]);
    assert_eq!([&found.tokens[259], &found.tokens[262], &found.tokens[263]], ["▁", "<|end|>", "[PAD263]"]);
    assert_eq!((found.bos_token_id, found.eos_token_id, found.unknown_token_id), (Some(1), Some(262), Some(0)));
    assert_eq!((found.add_bos_token, found.add_space_prefix), (Some(false), Some(true)));
    assert_eq!(found.chat_template.as_deref(), Some("{{ messages }}"));
}

#[test]
fn byte_level_vocabularies_are_written() {
    let folder = Folder::new("gguf-of-bytes");
    let out = out(&folder, "byte-level");
    merged(&golden("tied/model"), &golden("tied/init_adapter"), MergeFormat::GgufF16, &out).unwrap();
    let found = tokenizer(&out.join("model.gguf"));
    let text = std::fs::read(golden("tied/model/tokenizer.json")).unwrap();
    let mut json: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!((found.model.as_str(), found.pre.as_deref(), found.merges), ("gpt2", Some("gpt-2"), Some(Vec::new())));
    for (text, id) in json["model"]["vocab"].as_object().unwrap() {
        assert_eq!(&found.tokens[id.as_u64().unwrap() as usize], text);
    }
    assert_eq!(found.tokens[259], "<|im_end|>");
    assert_eq!((found.token_types.unwrap()[259], found.eos_token_id, found.add_bos_token), (3, Some(259), Some(false)));
    assert!(found.chat_template.unwrap().contains("<|im_start|>"));

    // What the pre-tokenizer is called follows from how it cuts.
    let words = |digits: &str| {
        let pattern = format!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        );
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},
        ]})
    };
    let digits = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": true}, {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    ]});
    json["model"]["merges"] = json!([["a", "b"], "c d"]);
    let starts = json!({"type": "Sequence", "processors": [{"type": "ByteLevel"}, {
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|startoftext|>", "type_id": 0}}, {"Sequence": {"id": "A"}}],
    }]});
    for (name, pre, ignore_merges, post) in [
        ("llama-bpe", words(r"\p{N}{1,3}"), true, &starts),
        ("dbrx", words(r"\p{N}{1,3}"), false, &Value::Null),
        ("qwen2", words(r"\p{N}"), false, &Value::Null),
        ("smollm", digits, false, &Value::Null),
    ] {
        (json["pre_tokenizer"], json["model"]["ignore_merges"], json["post_processor"]) =
            (pre, json!(ignore_merges), post.clone());
        let folder = Folder::new(&format!("gguf-of-{name}"));
        let base = base(&folder, &golden("tied/model"), &[("tokenizer.json", json.to_string().as_bytes())]);
        merged(&base, &golden("tied/init_adapter"), MergeFormat::GgufQ8_0, &folder.0.join("out")).unwrap();
        let found = tokenizer(&folder.0.join("out/model.gguf"));
        assert_eq!(found.pre.as_deref(), Some(name));
        assert_eq!(found.merges.unwrap(), ["a b", "c d"]);
        assert_eq!(found.add_bos_token, Some(name == "llama-bpe"));
    }
}

#[test]
fn what_llama_cpp_does_not_compute_is_refused_by_name() {
    let unigram = sentencepiece(64, 1);
    let cut = &sentencepiece(64, 2)[..40];
    let many = sentencepiece(65, 2);
    let wordpiece = br#"{"model": {"type": "WordPiece", "vocab": {}}}"#;
    let cases: [(&str, Others<'_>, ErrorCode, &str); 7] = [
        ("llama3", &[], ErrorCode::ModelUnsupported, "no tokenizer is there"),
        ("llama3", &[("tokenizer.model", &unigram)], ErrorCode::ModelUnsupported, "a unigram model"),
        ("llama3", &[("tokenizer.model", cut)], ErrorCode::ModelCorrupt, "not a complete model of sentencepiece"),
        ("llama3", &[("tokenizer.model", &many)], ErrorCode::ModelCorrupt, "65 tokens, the embedding table 64 rows"),
        ("llama3", &[("tokenizer.json", wordpiece)], ErrorCode::ModelUnsupported, "no BPE"),
        ("chatglm3", &[], ErrorCode::ModelUnsupported, "`chatglm`"),
        ("baichuan-13b", &[], ErrorCode::ModelUnsupported, "ALiBi and 2 blocks"),
    ];
    for (index, (family, files, code, part)) in cases.into_iter().enumerate() {
        let folder = Folder::new(&format!("gguf-refused-{index}"));
        let model = golden("families").join(family);
        let base = base(&folder, &model.join("model"), files);
        let found = merged(&base, &model.join("init_adapter"), MergeFormat::GgufF16, &folder.0.join("out"));
        let error = found.unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(part), "{error}");
        assert_eq!(std::fs::read_dir(folder.0.join("out")).unwrap().count(), 0);
    }
}
