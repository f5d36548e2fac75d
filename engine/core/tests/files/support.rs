//! Writers of small GGUF and safetensors files, and a small model to put into them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use luthier_core::generate::{CpuSequence, OpsModel, OpsSequence, Sequence};
use luthier_core::lora::LoraAdapter;
use luthier_core::lora::peft::PeftAdapter;
use luthier_core::model::{BaseModel, TensorSource};
use luthier_core::ops::cpu::CpuOps;
use luthier_core::ops::cpu::decode::CpuDecoder;
use luthier_core::ops::cpu::decode_model::{DecodeAdapter, DecodeModel};
use luthier_core::{EngineError, HostTensor, ModelConfig, Result, StoredType, TensorBytes, WeightStorage};

/// A folder of one test, removed when the test ends.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("luthier-files-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Reproducible numbers in -1 … 1.
pub fn numbers(count: usize, mut state: u32) -> Vec<f32> {
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The metadata value types that the tests write.
#[derive(Clone)]
pub enum Meta {
    U32(u32),
    F32(f32),
    Bool(bool),
    String(String),
    Strings(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    /// Type number and bytes as they are, for what no sane writer writes.
    Raw(u32, Vec<u8>),
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl Meta {
    pub fn text(text: &str) -> Self {
        Self::String(text.to_owned())
    }

    fn write(&self, out: &mut Vec<u8>) {
        let array = |out: &mut Vec<u8>, kind: u32, length: usize| {
            out.extend(9u32.to_le_bytes());
            out.extend(kind.to_le_bytes());
            out.extend((length as u64).to_le_bytes());
        };
        match self {
            Self::U32(value) => out.extend([4u32.to_le_bytes(), value.to_le_bytes()].concat()),
            Self::F32(value) => out.extend([6u32.to_le_bytes(), value.to_le_bytes()].concat()),
            Self::Bool(value) => {
                out.extend(7u32.to_le_bytes());
                out.push(u8::from(*value));
            }
            Self::String(text) => {
                out.extend(8u32.to_le_bytes());
                string(out, text);
            }
            Self::Strings(texts) => {
                array(out, 8, texts.len());
                texts.iter().for_each(|text| string(out, text));
            }
            Self::I32s(values) => {
                array(out, 5, values.len());
                out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Self::F32s(values) => {
                array(out, 6, values.len());
                out.extend(f32_bytes(values));
            }
            Self::Raw(kind, bytes) => {
                out.extend(kind.to_le_bytes());
                out.extend(bytes);
            }
        }
    }
}

/// One tensor to write: GGML type number, shape in Hugging Face's order, bytes.
#[derive(Clone)]
pub struct GgufTensor {
    pub kind: u32,
    pub shape: Vec<u64>,
    pub bytes: Vec<u8>,
}

/// A GGUF file under construction.
#[derive(Clone)]
pub struct Gguf {
    pub version: u32,
    pub metadata: Vec<(String, Meta)>,
    pub tensors: Vec<(String, GgufTensor)>,
    /// Changes the offset that the header states for a tensor.
    pub moved: BTreeMap<String, u64>,
}

impl Gguf {
    pub fn set(&mut self, key: &str, value: Meta) {
        self.metadata.retain(|(existing, _)| existing != key);
        self.metadata.push((key.to_owned(), value));
    }

    pub fn tensor(&mut self, name: &str) -> &mut GgufTensor {
        &mut self.tensors.iter_mut().find(|(existing, _)| existing == name).unwrap().1
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            string(&mut out, key);
            value.write(&mut out);
        }
        let mut offset = 0u64;
        for (name, tensor) in &self.tensors {
            string(&mut out, name);
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|size| out.extend(size.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(self.moved.get(name).copied().unwrap_or(offset).to_le_bytes());
            offset += (tensor.bytes.len() as u64).next_multiple_of(32);
        }
        for (_, tensor) in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(&tensor.bytes);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out
    }
}

/// A small model with grouped heads; weights as f32 under Hugging Face names.
pub struct TinyModel {
    pub config: ModelConfig,
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl TinyModel {
    pub fn new(tied: bool) -> Self {
        let config = ModelConfig {
            model_type: "llama".to_owned(),
            vocab_size: 96,
            hidden_size: 32,
            intermediate_size: 64,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 8,
            sliding_window: None,
            max_position_embeddings: 160,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            tie_word_embeddings: tied,
            variant: luthier_core::config::Variant::default(),
            eos_token_ids: vec![2],
            bos_token_id: Some(1),
        };
        let mut shapes =
            vec![("model.embed_tokens.weight".to_owned(), vec![96, 32]), ("model.norm.weight".to_owned(), vec![32])];
        if !tied {
            shapes.push(("lm_head.weight".to_owned(), vec![96, 32]));
        }
        for layer in 0..2 {
            for (name, shape) in [
                ("input_layernorm", vec![32]),
                ("post_attention_layernorm", vec![32]),
                ("self_attn.q_proj", vec![32, 32]),
                ("self_attn.k_proj", vec![16, 32]),
                ("self_attn.v_proj", vec![16, 32]),
                ("self_attn.o_proj", vec![32, 32]),
                ("mlp.gate_proj", vec![64, 32]),
                ("mlp.up_proj", vec![64, 32]),
                ("mlp.down_proj", vec![32, 64]),
            ] {
                shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
            }
        }
        let tensors = shapes.into_iter().enumerate().map(|(index, (name, shape)): (usize, (String, Vec<usize>))| {
            let values = numbers(shape.iter().product(), index as u32 + 1);
            let norm = shape.len() == 1;
            let values = values.into_iter().map(|value| if norm { 1.0 + 0.2 * value } else { 0.4 * value }).collect();
            (name, (shape, values))
        });
        Self { config, tensors: tensors.collect() }
    }

    /// The model as a GGUF file in f32, with llama.cpp's order of query and key rows.
    pub fn gguf(&self) -> Gguf {
        let config = &self.config;
        let size = |value: usize| Meta::U32(value as u32);
        let metadata: Vec<(&str, Meta)> = vec![
            ("general.architecture", Meta::text("llama")),
            ("general.name", Meta::text("Tiny")),
            ("llama.block_count", size(config.num_hidden_layers)),
            ("llama.context_length", size(config.max_position_embeddings)),
            ("llama.embedding_length", size(config.hidden_size)),
            ("llama.feed_forward_length", size(config.intermediate_size)),
            ("llama.attention.head_count", size(config.num_attention_heads)),
            ("llama.attention.head_count_kv", size(config.num_key_value_heads)),
            ("llama.rope.freq_base", Meta::F32(config.rope_theta as f32)),
            ("llama.attention.layer_norm_rms_epsilon", Meta::F32(config.rms_norm_eps as f32)),
            ("tokenizer.ggml.model", Meta::text("gpt2")),
            ("tokenizer.ggml.tokens", Meta::Strings((0..config.vocab_size).map(|id| format!("<{id}>")).collect())),
            ("tokenizer.ggml.token_type", Meta::I32s(vec![1; config.vocab_size])),
            ("tokenizer.ggml.eos_token_id", Meta::U32(2)),
            ("tokenizer.ggml.bos_token_id", Meta::U32(1)),
        ];
        let tensors = self.tensors.iter().map(|(name, (shape, values))| {
            let heads = match name {
                name if name.ends_with("q_proj.weight") => config.num_attention_heads,
                name if name.ends_with("k_proj.weight") => config.num_key_value_heads,
                _ => 0,
            };
            let values = if heads > 0 { permute(values, shape, heads) } else { values.clone() };
            let shape = shape.iter().map(|size| *size as u64).collect();
            (gguf_name(name), GgufTensor { kind: 0, shape, bytes: f32_bytes(&values) })
        });
        Gguf {
            version: 3,
            metadata: metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            tensors: tensors.collect(),
            moved: BTreeMap::new(),
        }
    }

    /// The model's tensors as one safetensors file.
    pub fn safetensors(&self, wanted: impl Fn(&str) -> bool) -> Vec<u8> {
        let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = self
            .tensors
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(name, (shape, values))| (name, shape, f32_bytes(values)))
            .collect();
        let views = bytes.iter().map(|(name, shape, bytes)| {
            (*name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, (*shape).clone(), bytes).unwrap())
        });
        safetensors::serialize(views, None).unwrap()
    }

    /// Its `config.json`.
    pub fn config_json(&self) -> serde_json::Value {
        let config = &self.config;
        serde_json::json!({
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "num_key_value_heads": config.num_key_value_heads,
            "max_position_embeddings": config.max_position_embeddings,
            "rms_norm_eps": config.rms_norm_eps,
            "rope_theta": config.rope_theta,
            "tie_word_embeddings": config.tie_word_embeddings,
            "eos_token_id": 2,
            "bos_token_id": 1,
        })
    }
}

impl TensorSource for TinyModel {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn tensor(&self, name: &str) -> Result<HostTensor> {
        let (shape, values) = self.tensors.get(name).ok_or_else(|| EngineError::internal(name))?;
        let bytes = TensorBytes::Owned(f32_bytes(values).into());
        Ok(HostTensor::new(StoredType::F32, shape.clone(), bytes))
    }
}

fn gguf_name(name: &str) -> String {
    match name {
        "model.embed_tokens.weight" => return "token_embd.weight".to_owned(),
        "model.norm.weight" => return "output_norm.weight".to_owned(),
        "lm_head.weight" => return "output.weight".to_owned(),
        _ => {}
    }
    name.replace("model.layers.", "blk.")
        .replace("input_layernorm", "attn_norm")
        .replace("post_attention_layernorm", "ffn_norm")
        .replace("self_attn.q_proj", "attn_q")
        .replace("self_attn.k_proj", "attn_k")
        .replace("self_attn.v_proj", "attn_v")
        .replace("self_attn.o_proj", "attn_output")
        .replace("mlp.gate_proj", "ffn_gate")
        .replace("mlp.up_proj", "ffn_up")
        .replace("mlp.down_proj", "ffn_down")
}

/// What llama.cpp's converter does: `w.reshape(heads, 2, head_dim / 2, in).swapaxes(1, 2).reshape(w.shape)`.
fn permute(values: &[f32], shape: &[usize], heads: usize) -> Vec<f32> {
    let (rows, width) = (shape[0], shape[1]);
    let half = rows / heads / 2;
    let mut out = vec![0.0; values.len()];
    for head in 0..heads {
        for part in 0..2 {
            for j in 0..half {
                let (from, to) = ((head * 2 + part) * half + j, (head * half + j) * 2 + part);
                out[to * width..(to + 1) * width].copy_from_slice(&values[from * width..(from + 1) * width]);
            }
        }
    }
    out
}

/// Opens a path that must be refused.
pub fn refused(path: &Path) -> EngineError {
    match luthier_core::load::open(path) {
        Ok(_) => panic!("{} was accepted", path.display()),
        Err(error) => error,
    }
}

/// A model ready to generate from, its weights as stored, in both ways: decoding on the processor, and by any device's operations.
pub struct Models {
    decoder: Arc<Mutex<CpuDecoder>>,
    decode: Arc<DecodeModel>,
    ops: Arc<OpsModel<CpuOps<f32>>>,
}

impl Models {
    pub fn new(source: &dyn TensorSource, threads: usize) -> Self {
        Self::held(source, threads, WeightStorage::Stored)
    }

    pub fn held(source: &dyn TensorSource, threads: usize, storage: WeightStorage) -> Self {
        let ops = Arc::new(CpuOps::new(threads));
        let base = Arc::new(BaseModel::load(&*ops, source, storage).unwrap());
        Self {
            decoder: Arc::new(Mutex::new(CpuDecoder::new(threads))),
            decode: Arc::new(DecodeModel::new(&base)),
            ops: Arc::new(OpsModel::new(ops, base).unwrap()),
        }
    }

    /// An empty sequence that decodes on the processor.
    pub fn sequence(&self, adapter: Option<&PeftAdapter>) -> Box<dyn Sequence> {
        let adapter = adapter.map(|adapter| Arc::new(DecodeAdapter::new(self.decode.config(), adapter)));
        Box::new(CpuSequence::new(self.decoder.clone(), self.decode.clone(), adapter))
    }

    /// An empty sequence of each kind.
    pub fn sequences(&self, adapter: Option<&PeftAdapter>) -> [Box<dyn Sequence>; 2] {
        let config = &self.ops.base().config;
        let matrices =
            adapter.map(|adapter| Arc::new(LoraAdapter::from_peft(&**self.ops.ops(), config, adapter).unwrap()));
        [self.sequence(adapter), Box::new(OpsSequence::new(self.ops.clone(), matrices))]
    }
}
