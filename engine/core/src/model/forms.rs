//! Sizes and types of a model's frozen weights: what their memory follows from, before or after they are loaded.

use super::linear::{LINEAR_MODULES, LinearModule};
use super::source::TensorSource;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::ops::{EmbeddingPlace, MemoryPrices};
use crate::quant::{MatrixForm, WeightStorage};

/// Every matrix of a base model.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightForms {
    /// `[vocab_size, hidden_size]`
    pub embed_tokens: MatrixForm,
    /// None: the embedding table is the output layer.
    pub lm_head: Option<MatrixForm>,
    /// For each block, its linear layers in the order of [`LINEAR_MODULES`].
    pub layers: Vec<[MatrixForm; 7]>,
    /// Where the embedding table is kept, or is to be.
    embedding: EmbeddingPlace,
    hidden_size: usize,
    /// Lengths of each block's biases and of the norms of its heads.
    block_vectors: Vec<usize>,
}

impl WeightForms {
    /// What [`BaseModel::load_placed`](super::BaseModel::load_placed) would hold. Reads no numbers.
    ///
    /// Errors: those of the source.
    pub fn read(source: &dyn TensorSource, storage: WeightStorage, embedding: EmbeddingPlace) -> Result<Self> {
        let config = source.config();
        let ModelConfig { num_hidden_layers, tie_word_embeddings, hidden_size, head_dim, .. } = *config;
        let variant = &config.variant;
        let layer = |layer: usize| {
            let linear = |module: LinearModule| -> Result<MatrixForm> {
                let form = source.form(&format!("model.layers.{layer}.{}.weight", module.path()))?;
                Ok(form.converted(storage))
            };
            let [query, key, value, output, gate, up, down] = LINEAR_MODULES.map(linear);
            Ok([query?, key?, value?, output?, gate?, up?, down?])
        };
        let biased = LINEAR_MODULES.into_iter().filter(|module| module.has_bias(config));
        let biases = biased.map(|module| module.shape(config).0);
        let head_norms = std::iter::repeat_n(head_dim, if variant.query_key_norm { 2 } else { 0 });
        Ok(Self {
            embed_tokens: source.form("model.embed_tokens.weight")?,
            lm_head: match tie_word_embeddings {
                true => None,
                false => {
                    let form = source.form("lm_head.weight")?;
                    Some(MatrixForm { mapped: form.mapped && !variant.normalized_head, ..form })
                }
            },
            layers: (0..num_hidden_layers).map(layer).collect::<Result<_>>()?,
            // A table that is the output layer, too, stays on the device.
            embedding: if tie_word_embeddings { EmbeddingPlace::Device } else { embedding },
            hidden_size,
            block_vectors: biases.chain(head_norms).collect(),
        })
    }

    /// The same model with its linear layers held otherwise.
    pub fn converted(&self, storage: WeightStorage) -> Self {
        let layers = self.layers.iter().map(|layer| layer.map(|form| form.converted(storage))).collect();
        Self { layers, ..self.clone() }
    }

    /// Lengths of all norms and biases.
    pub(super) fn vector_lengths(&self) -> impl Iterator<Item = usize> {
        let norms = std::iter::repeat_n(self.hidden_size, 2 * self.layers.len() + 1);
        norms.chain(self.layers.iter().flat_map(|_| self.block_vectors.iter().copied()))
    }

    /// The output layer's.
    pub fn output(&self) -> &MatrixForm {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens)
    }

    /// Bytes of all weights in a device's memory, norms and biases included.
    pub fn bytes(&self, prices: &dyn MemoryPrices) -> u64 {
        self.sum(prices, &|form| prices.weight(form))
    }

    /// Of those, bytes that a loaded model has taken from what is free.
    pub fn held_bytes(&self, prices: &dyn MemoryPrices) -> u64 {
        self.sum(prices, &|form| prices.held_weight(form))
    }

    /// Bytes of weights in locked memory of the host.
    pub fn pinned_host_bytes(&self, prices: &dyn MemoryPrices) -> u64 {
        if self.is_table_on_host(prices) { self.embed_tokens.host_bytes() } else { 0 }
    }

    fn is_table_on_host(&self, prices: &dyn MemoryPrices) -> bool {
        prices.is_on_host(&self.embed_tokens, self.embedding)
    }

    fn sum(&self, prices: &dyn MemoryPrices, bytes: &dyn Fn(&MatrixForm) -> u64) -> u64 {
        let vectors: u64 = self.vector_lengths().map(|len| prices.buffer(len)).sum();
        let table = if self.is_table_on_host(prices) { 0 } else { bytes(&self.embed_tokens) };
        let tables = table + self.lm_head.as_ref().map_or(0, bytes);
        vectors + tables + self.layers.iter().flatten().map(bytes).sum::<u64>()
    }
}
