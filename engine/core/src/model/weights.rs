//! A base model's frozen weights on a device.

use super::forms::WeightForms;
use super::linear::{LINEAR_MODULES, LinearModule};
use super::normalized::normalized_rows;
use super::source::TensorSource;
use crate::config::ModelConfig;
use crate::error::{EngineError, Result};
use crate::ops::{EmbeddingPlace, Ops};
use crate::quant::{WeightStorage, convert};

/// A linear layer: `x · weightᵀ + bias`.
pub struct Linear<O: Ops> {
    pub weight: O::Weight,
    /// `[out_features]`, where the architecture has one.
    pub bias: Option<O::Buffer>,
}

/// One block.
pub struct LayerWeights<O: Ops> {
    pub input_norm: O::Buffer,
    pub post_attention_norm: O::Buffer,
    /// `[head_dim]` each, where the architecture has them: of each head of queries, and of keys.
    pub head_norms: Option<[O::Buffer; 2]>,
    linears: [Linear<O>; 7],
}

impl<O: Ops> LayerWeights<O> {
    /// One of the block's linear layers.
    pub fn linear(&self, module: LinearModule) -> &Linear<O> {
        &self.linears[module as usize]
    }
}

/// A base model. Immutable; shared by everything that trains on it.
pub struct BaseModel<O: Ops> {
    pub config: ModelConfig,
    /// `[vocab_size, hidden_size]`
    pub embed_tokens: O::Weight,
    pub layers: Vec<LayerWeights<O>>,
    pub norm: O::Buffer,
    /// `[vocab_size, hidden_size]`; none: the embedding table is the output layer.
    pub lm_head: Option<O::Weight>,
    /// Sizes and types of all of them.
    pub forms: WeightForms,
}

impl<O: Ops> BaseModel<O> {
    /// Takes the tensors under their Hugging Face names, one at a time; the weights of linear layers but the output layer are converted to
    /// `storage` on the way.
    ///
    /// Errors: those of the source and of the device; `MODEL_UNSUPPORTED` where a number does not fit the storage type; `INTERNAL` where a
    /// tensor has another shape than the configuration says, which readers rule out.
    pub fn load(ops: &O, source: &dyn TensorSource, storage: WeightStorage) -> Result<Self> {
        Self::load_placed(ops, source, storage, EmbeddingPlace::Device)
    }

    /// As [`Self::load`], with the embedding table where `embedding` says; a table that is the output layer, too, stays on the device.
    pub fn load_placed(
        ops: &O,
        source: &dyn TensorSource,
        storage: WeightStorage,
        embedding: EmbeddingPlace,
    ) -> Result<Self> {
        let config = source.config().clone();
        let checked = |name: &str, weight: O::Weight, expected: (usize, usize)| -> Result<O::Weight> {
            let found = ops.weight_shape(&weight);
            if found == expected {
                return Ok(weight);
            }
            Err(EngineError::internal(format!("`{name}` is {found:?}; expected {expected:?}")))
        };
        let weight = |name: &str, rows: usize, columns: usize, storage: WeightStorage| -> Result<O::Weight> {
            let name = format!("{name}.weight");
            let weight = ops.upload_weight(convert(&name, source.tensor(&name)?, storage)?)?;
            checked(&name, weight, (rows, columns))
        };
        let norm = |name: &str| ops.upload_dequantized(&source.tensor(&format!("{name}.weight"))?);
        let (hidden_size, vocab_size) = (config.hidden_size, config.vocab_size);
        let layers = (0..config.num_hidden_layers).map(|layer| {
            let prefix = format!("model.layers.{layer}");
            let mut linears = Vec::with_capacity(LINEAR_MODULES.len());
            for module in LINEAR_MODULES {
                let (out_features, in_features) = module.shape(&config);
                let name = format!("{prefix}.{}", module.path());
                let weight = weight(&name, out_features, in_features, storage)?;
                let bias = module.has_bias(&config).then(|| format!("{name}.bias"));
                let bias = bias.map(|name| ops.upload_dequantized(&source.tensor(&name)?)).transpose()?;
                linears.push(Linear { weight, bias });
            }
            let head_norms = match config.variant.query_key_norm {
                true => {
                    Some([norm(&format!("{prefix}.self_attn.q_norm"))?, norm(&format!("{prefix}.self_attn.k_norm"))?])
                }
                false => None,
            };
            Ok(LayerWeights {
                input_norm: norm(&format!("{prefix}.input_layernorm"))?,
                post_attention_norm: norm(&format!("{prefix}.post_attention_layernorm"))?,
                head_norms,
                linears: linears.try_into().map_err(|_| EngineError::internal("a block has seven linear layers"))?,
            })
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let table = "model.embed_tokens.weight";
        let output_layer = || -> Result<O::Weight> {
            let (name, shape) = ("lm_head.weight", (vocab_size, hidden_size));
            let mut tensor = source.tensor(name)?;
            if config.variant.normalized_head {
                tensor = normalized_rows(name, &tensor)?;
            }
            checked(name, ops.upload_weight(tensor)?, shape)
        };
        let (lm_head, embed_tokens) = match config.tie_word_embeddings {
            true => (None, ops.upload_weight(source.tensor(table)?)?),
            false => (Some(output_layer()?), ops.upload_embedding(source.tensor(table)?, embedding)?),
        };
        Ok(Self {
            forms: WeightForms::read(source, storage, ops.embedding_place(&embed_tokens))?,
            embed_tokens: checked(table, embed_tokens, (vocab_size, hidden_size))?,
            norm: norm("model.norm")?,
            layers,
            lm_head,
            config,
        })
    }

    /// Bytes of the weights as they are held, norms and biases included.
    pub fn weight_bytes(&self, ops: &O) -> u64 {
        let vectors = self.forms.vector_lengths().map(|len| (len * size_of::<O::Elem>()) as u64);
        let linears = self.layers.iter().flat_map(|layer| &layer.linears).map(|linear| &linear.weight);
        let tables = std::iter::once(&self.embed_tokens).chain(&self.lm_head);
        let matrices: u64 = linears.chain(tables).map(|weight| ops.weight_bytes(weight)).sum();
        matrices + vectors.sum::<u64>()
    }

    /// The output layer's weight.
    pub fn output_weight(&self) -> &O::Weight {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens)
    }
}
