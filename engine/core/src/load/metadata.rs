//! What a model's files say about themselves. Field for field the `ModelMetadata` of `src/engine/engine.ts`.

use std::path::PathBuf;

/// The `tokenizer.ggml.*` keys of a GGUF file, unchanged; `None` where the file has no such key.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufTokenizerMetadata {
    /// `gpt2` (byte-level BPE) or `llama` (sentencepiece).
    pub model: String,
    /// Pre-tokenizer name, such as `smollm`.
    pub pre: Option<String>,
    pub tokens: Vec<String>,
    pub scores: Option<Vec<f32>>,
    /// 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
    pub token_types: Option<Vec<i32>>,
    pub merges: Option<Vec<String>>,
    pub bos_token_id: Option<u32>,
    pub eos_token_id: Option<u32>,
    pub eot_token_id: Option<u32>,
    pub unknown_token_id: Option<u32>,
    pub padding_token_id: Option<u32>,
    pub add_bos_token: Option<bool>,
    pub add_eos_token: Option<bool>,
    pub add_space_prefix: Option<bool>,
    pub chat_template: Option<String>,
}

/// Where a tokenizer can be read from.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenizerSource {
    Gguf(Box<GgufTokenizerMetadata>),
    /// The folder that holds `tokenizer.json`.
    HuggingFace(PathBuf),
}

/// What a model's files say, in the order of the TypeScript interface.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelMetadata {
    pub path: String,
    /// `gguf`, `safetensors` or `pytorch`.
    pub format: String,
    /// `model_type` of Hugging Face, such as `llama`.
    pub architecture: String,
    pub name: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub max_position_embeddings: usize,
    pub tie_word_embeddings: bool,
    pub rope_theta: f64,
    pub rms_norm_eps: f64,
    /// Parameters, tied tensors counted once.
    pub parameter_count: u64,
    /// Bytes of the tensors as stored.
    pub stored_bytes: u64,
    /// The stored type that holds most bytes, such as `q4_1`.
    pub storage_type: String,
    /// SHA-256 tree hash over configuration and tensors; lower-case hex.
    pub content_hash: String,
    pub eos_token_ids: Vec<u32>,
    /// Modules that LoRA may target, without the layer prefix, such as `q_proj`.
    pub linear_modules: Vec<String>,
    pub tokenizer: TokenizerSource,
}
