//! The shape of a decoder-only transformer, whatever file it came from.

use std::sync::Arc;

use crate::ops::{AttentionShape, RopeShape};

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
    /// Base of rope's frequencies; of no effect without rope.
    pub rope_theta: f64,
    /// The output layer is the embedding table.
    pub tie_word_embeddings: bool,
    /// Where the computation departs from Llama's.
    pub variant: Variant,
    /// Ids that end a sequence, from the files' own configuration; may be empty.
    pub eos_token_ids: Vec<u32>,
    pub bos_token_id: Option<u32>,
}

/// Where a decoder's computation departs from Llama's; by default nowhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Variant {
    pub position: PositionEncoding,
    /// The query, key and value projections have biases.
    pub query_key_value_bias: bool,
    /// Attention's output projection has one.
    pub output_bias: bool,
    /// The gate, up and down projections have biases.
    pub mlp_bias: bool,
    /// RMSNorm of each head of queries and keys, before rope.
    pub query_key_norm: bool,
    /// The output layer's rows have unit length; the file's rows do not.
    pub normalized_head: bool,
}

/// How attention knows where a token stands.
#[derive(Clone, Debug, PartialEq)]
pub enum PositionEncoding {
    /// Queries and keys are rotated (J. Su et al., RoFormer, 2021).
    Rope(Rope),
    /// Scores fall with distance by a slope of each head (O. Press et al., ALiBi, 2021); see [`AttentionShape`].
    Alibi,
}

impl Default for PositionEncoding {
    fn default() -> Self {
        Self::Rope(Rope::default())
    }
}

/// A form of rope; by default Llama's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rope {
    pub pairs: RopePairs,
    /// The first so many numbers of a head are rotated, an even number; none: all.
    pub rotated: Option<usize>,
    pub scaling: RopeScaling,
}

/// Which numbers of a head are rotated together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RopePairs {
    /// i and i + rotated / 2.
    #[default]
    Halves,
    /// 2 i and 2 i + 1.
    Interleaved,
}

/// How rope's frequencies are stretched for longer contexts; names as in transformers' `rope_scaling`.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum RopeScaling {
    #[default]
    None,
    /// All frequencies are divided.
    Linear { factor: f64 },
    /// Low frequencies are divided, high ones are not, those between are blended.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        /// `original_max_position_embeddings`
        original_context: f64,
    },
    /// Each frequency is divided by a number of its own, `[rotated / 2]`: GGUF's form of `Llama3`.
    Factors(Arc<[f32]>),
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

    /// Sizes and form of attention.
    pub fn attention_shape(&self) -> AttentionShape {
        AttentionShape {
            heads: self.num_attention_heads,
            key_value_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
            window: self.sliding_window,
            alibi: self.variant.position == PositionEncoding::Alibi,
        }
    }

    /// Rope over rows of so many heads; none where positions are told otherwise.
    pub fn rope_shape(&self, heads: usize) -> Option<RopeShape> {
        match &self.variant.position {
            PositionEncoding::Rope(rope) => Some(RopeShape {
                heads,
                head_dim: self.head_dim,
                rotated: rope.rotated.unwrap_or(self.head_dim),
                pairs: rope.pairs,
            }),
            PositionEncoding::Alibi => None,
        }
    }
}
