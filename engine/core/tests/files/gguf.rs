//! Sound GGUF files.

use candle_core::quantized::GgmlDType;
use luthier_core::config::{PositionEncoding, Rope, RopeScaling};
use luthier_core::load::{self, TokenizerSource};
use luthier_core::model::{BaseModel, WeightForms};
use luthier_core::ops::cpu::CpuOps;
use luthier_core::ops::{EmbeddingPlace, Ops};
use luthier_core::{ErrorCode, StoredType, TensorBytes, WeightStorage};

use crate::support::{Folder, GgufTensor, Meta, TinyModel, f32_bytes, refused};

#[test]
fn tensors_come_back_under_hugging_face_names_and_in_its_row_order() {
    for tied in [true, false] {
        let model = TinyModel::new(tied);
        let folder = Folder::new(&format!("gguf-tensors-{tied}"));
        let files = load::open(&folder.file("tiny.gguf", &model.gguf().bytes())).unwrap();
        assert_eq!(files.config().tie_word_embeddings, tied);
        for (name, (shape, values)) in &model.tensors {
            let tensor = files.tensor(name).unwrap();
            assert_eq!(&tensor.shape, shape, "{name}");
            assert_eq!(tensor.stored, StoredType::F32);
            assert!(tensor.bytes.as_slice() == f32_bytes(values), "{name}");
        }
        assert_eq!(files.tensor("lm_head.weight").is_ok(), !tied);
    }
}

#[test]
fn rows_of_quantized_blocks_are_put_right_as_a_whole() {
    let model = TinyModel::new(true);
    let mut gguf = model.gguf();
    let name = "blk.1.attn_q.weight";
    // The stored rows, quantized one by one: a row has 32 elements, one block.
    let stored: Vec<f32> =
        gguf.tensor(name).bytes.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect();
    let quantize = |values: &[f32]| {
        let mut blocks = GgmlDType::Q4_1.cpu_zeros(values.len());
        blocks.from_float(values);
        // SAFETY: the pointer and the size describe the blocks just made.
        unsafe { std::slice::from_raw_parts(blocks.as_ptr(), blocks.storage_size_in_bytes()) }.to_vec()
    };
    *gguf.tensor(name) = crate::support::GgufTensor { kind: 3, shape: vec![32, 32], bytes: quantize(&stored) };
    let folder = Folder::new("gguf-quantized");
    let files = load::open(&folder.file("tiny.gguf", &gguf.bytes())).unwrap();
    let hugging_face = "model.layers.1.self_attn.q_proj.weight";
    let tensor = files.tensor(hugging_face).unwrap();
    assert_eq!(tensor.stored, StoredType::Ggml(GgmlDType::Q4_1));
    assert!(tensor.bytes.as_slice() == quantize(&model.tensors[hugging_face].1));
}

/// What is planned from headers is what a load then holds; rows that are put right are no longer a window of the file.
#[test]
fn forms_are_those_of_the_tensors_and_price_what_a_load_holds() {
    for tied in [true, false] {
        let model = TinyModel::new(tied);
        let folder = Folder::new(&format!("gguf-forms-{tied}"));
        let files = load::open(&folder.file("tiny.gguf", &model.gguf().bytes())).unwrap();
        for (name, _) in model.tensors.iter().filter(|(_, (shape, _))| shape.len() == 2) {
            let (form, tensor) = (files.form(name).unwrap(), files.tensor(name).unwrap());
            assert_eq!((vec![form.rows, form.columns], form.stored), (tensor.shape, tensor.stored), "{name}");
            assert_eq!(form.mapped, matches!(tensor.bytes, TensorBytes::Mapped { .. }), "{name}");
        }
        for storage in WeightStorage::ALL {
            let ops = CpuOps::<f32>::new(1);
            let planned = WeightForms::read(&*files, storage, EmbeddingPlace::Device).unwrap();
            let base = BaseModel::load(&ops, &*files, storage).unwrap();
            assert_eq!(base.forms, planned);
            assert_eq!(planned.held_bytes(&*ops.prices()), ops.memory().allocated_bytes, "{}", storage.name());
            assert!(planned.bytes(&*ops.prices()) > planned.held_bytes(&*ops.prices()), "the tables stay in the file");
        }
    }
}

#[test]
fn metadata_says_what_the_file_says() {
    let model = TinyModel::new(true);
    let mut gguf = model.gguf();
    gguf.set("tokenizer.ggml.pre", Meta::text("smollm"));
    gguf.set("tokenizer.ggml.scores", Meta::F32s((0..96).map(|id| -(id as f32)).collect()));
    gguf.set("tokenizer.ggml.merges", Meta::Strings(vec!["a b".to_owned(), "é 中".to_owned()]));
    gguf.set("tokenizer.ggml.eot_token_id", Meta::U32(5));
    gguf.set("tokenizer.ggml.unknown_token_id", Meta::U32(0));
    gguf.set("tokenizer.ggml.add_bos_token", Meta::Bool(true));
    gguf.set("tokenizer.ggml.add_space_prefix", Meta::Bool(false));
    gguf.set("tokenizer.chat_template", Meta::text("{{ messages }}"));
    let folder = Folder::new("gguf-metadata");
    let path = folder.file("tiny.gguf", &gguf.bytes());
    let files = load::open(&path).unwrap();
    let metadata = files.metadata().unwrap();
    assert_eq!(metadata.path, path.display().to_string());
    assert_eq!(
        (metadata.format.as_str(), metadata.architecture.as_str(), metadata.name.as_str()),
        ("gguf", "llama", "Tiny")
    );
    assert_eq!((metadata.vocab_size, metadata.head_dim, metadata.num_key_value_heads), (96, 8, 2));
    assert_eq!(metadata.storage_type, "f32");
    let parameters: usize = model.tensors.values().map(|(_, values)| values.len()).sum();
    assert_eq!(metadata.parameter_count, parameters as u64);
    assert_eq!(metadata.stored_bytes, 4 * parameters as u64);
    assert_eq!(metadata.eos_token_ids, [2, 5]);
    assert_eq!(metadata.linear_modules, ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]);
    let TokenizerSource::Gguf(tokenizer) = &metadata.tokenizer else { panic!("a GGUF file carries its tokenizer") };
    assert_eq!((tokenizer.model.as_str(), tokenizer.pre.as_deref()), ("gpt2", Some("smollm")));
    assert_eq!((tokenizer.tokens.len(), tokenizer.tokens[7].as_str()), (96, "<7>"));
    assert_eq!(tokenizer.scores.as_ref().unwrap()[95], -95.0);
    assert_eq!(tokenizer.token_types.as_deref().unwrap(), [1; 96]);
    assert_eq!(tokenizer.merges.as_deref().unwrap(), ["a b", "é 中"]);
    let ids = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.eot_token_id, tokenizer.unknown_token_id];
    assert_eq!((ids, tokenizer.padding_token_id), ([Some(1), Some(2), Some(5), Some(0)], None));
    let flags = (tokenizer.add_bos_token, tokenizer.add_eos_token, tokenizer.add_space_prefix);
    assert_eq!(flags, (Some(true), None, Some(false)));
    assert_eq!(tokenizer.chat_template.as_deref(), Some("{{ messages }}"));
}

#[test]
fn the_content_hash_depends_on_content_alone() {
    let folder = Folder::new("gguf-hash");
    let hash = |name: &str, gguf: &crate::support::Gguf| {
        load::open(&folder.file(name, &gguf.bytes())).unwrap().metadata().unwrap().content_hash
    };
    let gguf = TinyModel::new(true).gguf();
    let first = hash("a.gguf", &gguf);
    assert_eq!(first.len(), 64);
    let mut renamed = gguf.clone();
    renamed.set("general.name", Meta::text("Another name"));
    renamed.tensors.reverse();
    assert_eq!(hash("b.gguf", &renamed), first);
    let mut one_bit = gguf.clone();
    one_bit.tensor("blk.0.ffn_up.weight").bytes[17] ^= 1;
    assert_ne!(hash("c.gguf", &one_bit), first);
    let mut other_base = gguf;
    other_base.set("llama.rope.freq_base", Meta::F32(50_000.0));
    assert_ne!(hash("d.gguf", &other_base), first);
}

#[test]
fn a_sliding_window_of_0_is_none() {
    let folder = Folder::new("gguf-window");
    for (stated, expected) in [(5, Some(5)), (0, None)] {
        let mut gguf = TinyModel::new(true).gguf();
        gguf.set("llama.attention.sliding_window", Meta::U32(stated));
        let files = load::open(&folder.file(&format!("{stated}.gguf"), &gguf.bytes())).unwrap();
        assert_eq!(files.config().sliding_window, expected);
    }
}

#[test]
fn what_the_decoder_does_not_compute_is_refused_by_name() {
    let folder = Folder::new("gguf-unsupported");
    let cases: [(&str, Meta, &str); 4] = [
        ("general.architecture", Meta::text("gemma2"), "`gemma2`"),
        ("llama.rope.scaling.type", Meta::text("yarn"), "`yarn`"),
        ("llama.expert_count", Meta::U32(8), "8 experts"),
        ("llama.rope.dimension_count", Meta::U32(4), "rope.dimension_count"),
    ];
    for (index, (key, value, part)) in cases.into_iter().enumerate() {
        let mut gguf = TinyModel::new(true).gguf();
        gguf.set(key, value);
        let error = refused(&folder.file(&format!("{index}.gguf"), &gguf.bytes()));
        assert_eq!(error.code, ErrorCode::ModelUnsupported, "{error}");
        assert!(error.message.contains(part), "{error}");
    }
    let mut gguf = TinyModel::new(true).gguf();
    gguf.tensor("blk.0.attn_q.weight").kind = 16;
    let error = refused(&folder.file("iq2.gguf", &gguf.bytes()));
    assert_eq!(error.code, ErrorCode::ModelUnsupported, "{error}");
    assert!(error.message.contains("blk.0.attn_q.weight") && error.message.contains("type 16"), "{error}");
}

/// Scaling of rope: by a factor, by factors, and what is neither.
#[test]
fn rope_scaling() {
    let folder = Folder::new("gguf-rope");
    let with = |name: &str, keys: &[(&str, Meta)], factors: Option<&[f32]>| {
        let mut gguf = TinyModel::new(true).gguf();
        keys.iter().for_each(|(key, value)| gguf.set(key, value.clone()));
        if let Some(factors) = factors {
            let shape = vec![factors.len() as u64];
            gguf.tensors
                .push(("rope_freqs.weight".to_owned(), GgufTensor { kind: 0, shape, bytes: f32_bytes(factors) }));
        }
        folder.file(&format!("{name}.gguf"), &gguf.bytes())
    };
    let linear = [("llama.rope.scaling.type", Meta::text("linear")), ("llama.rope.scaling.factor", Meta::F32(4.0))];
    let old = [("llama.rope.scale_linear", Meta::F32(4.0))];
    let factors: [f32; 4] = [1.0, 1.5, 8.0, 8.0];
    let cases = [
        (with("none", &[("llama.rope.scaling.type", Meta::text("none"))], None), RopeScaling::None),
        (with("linear", &linear, None), RopeScaling::Linear { factor: 4.0 }),
        (with("old", &old, None), RopeScaling::Linear { factor: 4.0 }),
        (with("factors", &[], Some(&factors)), RopeScaling::Factors(factors.into())),
    ];
    let mut hashes = Vec::new();
    for (path, expected) in &cases {
        let files = load::open(path).unwrap();
        let position = PositionEncoding::Rope(Rope { scaling: expected.clone(), ..Rope::default() });
        assert_eq!(files.config().variant.position, position);
        hashes.push(files.metadata().unwrap().content_hash);
    }
    // What computes the same has one hash.
    assert_eq!(hashes[1], hashes[2]);
    hashes.dedup();
    assert_eq!(hashes.len(), 3);
    for (path, code, part) in [
        (with("short", &[], Some(&factors[..3])), ErrorCode::ModelCorrupt, "f32 [3]; expected f32 [4]"),
        (with("zero", &[], Some(&[1.0, 0.0, 1.0, 1.0])), ErrorCode::ModelCorrupt, "holds 0"),
        (with("both", &linear, Some(&factors)), ErrorCode::ModelUnsupported, "beside `rope_freqs.weight`"),
        (with("negative", &[("llama.rope.scale_linear", Meta::F32(-1.0))], None), ErrorCode::ModelCorrupt, "-1"),
    ] {
        let error = refused(&path);
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(part), "{error}");
    }
}

#[test]
fn missing_surplus_and_misshapen_tensors_are_listed() {
    let folder = Folder::new("gguf-lists");
    let mut gguf = TinyModel::new(true).gguf();
    gguf.tensors.retain(|(name, _)| name != "blk.1.ffn_gate.weight");
    let error = refused(&folder.file("missing.gguf", &gguf.bytes()));
    assert_eq!(error.code, ErrorCode::ModelCorrupt);
    assert!(error.message.contains("missing tensors: `blk.1.ffn_gate.weight` [64, 32]"), "{error}");

    let mut gguf = TinyModel::new(true).gguf();
    gguf.set("llama.block_count", Meta::U32(1));
    let error = refused(&folder.file("surplus.gguf", &gguf.bytes()));
    assert!(error.message.contains("does not call for") && error.message.contains("and 1 more"), "{error}");

    // The first block has a bias: so must the others, and its keys and values.
    let mut gguf = TinyModel::new(true).gguf();
    let bias = GgufTensor { kind: 0, shape: vec![32], bytes: vec![0; 128] };
    gguf.tensors.push(("blk.0.attn_q.bias".to_owned(), bias));
    let error = refused(&folder.file("bias.gguf", &gguf.bytes()));
    assert_eq!(error.code, ErrorCode::ModelCorrupt);
    assert!(error.message.contains("`blk.0.attn_k.bias` [16]") && !error.message.contains("not call for"), "{error}");

    let mut gguf = TinyModel::new(true).gguf();
    gguf.tensor("blk.0.ffn_up.weight").shape = vec![32, 64];
    let error = refused(&folder.file("shape.gguf", &gguf.bytes()));
    assert!(error.message.contains("expected [64, 32], found [32, 64]"), "{error}");
}
