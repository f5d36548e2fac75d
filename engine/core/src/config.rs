//! The shape of a decoder-only transformer, whatever file it came from.

/// Configuration of one model. Names are those of a Hugging Face `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// `model_type`, such as `llama`.
    pub model_type: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    /// Last positions that a position sees, itself among them; at least 1. None: all positions before it.
    pub sliding_window: Option<usize>,
    /// Longest sequence the position encoding was made for, in tokens.
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    /// The output layer is the embedding table.
    pub tie_word_embeddings: bool,
    /// Ids that end a sequence, from the files' own configuration; may be empty.
    pub eos_token_ids: Vec<u32>,
    pub bos_token_id: Option<u32>,
}

impl ModelConfig {
    /// Width of the query projection: `num_attention_heads * head_dim`.
    pub fn query_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of the key and of the value projection: `num_key_value_heads * head_dim`.
    pub fn key_value_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}
