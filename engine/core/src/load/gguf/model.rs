//! A llama-type model in a GGUF file: configuration from its metadata, tensors under Hugging Face names.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::header::{GgufHeader, GgufTensor};
use super::names::hugging_face_name;
use super::tokenizer::{read_tokenizer, token_id};
use super::value::MetadataValue;
use crate::config::{ModelConfig, Variant};
use crate::error::{EngineError, Result};
use crate::load::content_hash::HashedTensor;
use crate::load::expected::{check_sizes, check_tensors, expected_tensors};
use crate::load::metadata::{ModelMetadata, TokenizerSource};
use crate::load::{ModelFiles, summarize};
use crate::model::TensorSource;
use crate::quant::MatrixForm;
use crate::tensor::{HostTensor, TensorBytes};

/// An opened GGUF file whose tensors are exactly those of its configuration.
pub struct GgufModel {
    header: GgufHeader,
    config: ModelConfig,
    /// Hugging Face name to the file's own name.
    names: BTreeMap<String, String>,
    metadata: OnceLock<ModelMetadata>,
}

impl GgufModel {
    /// Maps and checks the file; see [`crate::load::open`] for the errors.
    pub fn open(path: &Path) -> Result<Self> {
        let header = GgufHeader::open(path)?;
        let config = read_config(&header)?;
        check_sizes(&config).map_err(|message| header.corrupt(message))?;
        refuse_unsupported_tensors(&header)?;
        let names: BTreeMap<String, String> = header
            .tensors
            .keys()
            .map(|name| (hugging_face_name(name).unwrap_or_else(|| name.clone()), name.clone()))
            .collect();
        let found = names.iter().map(|(name, own)| (name.as_str(), header.tensors[own].shape.as_slice()));
        check_tensors(&expected_tensors(&config), found).map_err(|message| header.corrupt(message))?;
        Ok(Self { header, config, names, metadata: OnceLock::new() })
    }

    /// Each tensor's name in the file and in Hugging Face's files, in the order in which the file has them.
    pub(crate) fn stored_tensors(&self) -> Vec<(String, String)> {
        let mut tensors: Vec<_> = self.names.iter().map(|(name, own)| (own.clone(), name.clone())).collect();
        tensors.sort_by_key(|(own, _)| self.header.tensors[own].window.start);
        tensors
    }

    /// Every metadata key and value.
    ///
    /// Errors: `MODEL_UNSUPPORTED` for a file of version 1, whose texts have other lengths.
    pub(crate) fn metadata_values(&self) -> Result<Vec<(String, MetadataValue)>> {
        self.header.metadata_values()
    }

    fn entry(&self, name: &str) -> Result<&GgufTensor> {
        let own =
            self.names.get(name).ok_or_else(|| EngineError::internal(format!("the model has no tensor `{name}`")))?;
        Ok(&self.header.tensors[own])
    }

    fn as_stored(&self, name: &str) -> Result<HostTensor> {
        let entry = self.entry(name)?;
        Ok(self.header.file.tensor(entry.stored, entry.shape.clone(), entry.window.clone()))
    }

    /// Heads of a tensor whose rows llama.cpp permutes.
    pub(crate) fn permuted_heads(&self, name: &str) -> Option<usize> {
        if name.ends_with("self_attn.q_proj.weight") {
            Some(self.config.num_attention_heads)
        } else if name.ends_with("self_attn.k_proj.weight") {
            Some(self.config.num_key_value_heads)
        } else {
            None
        }
    }
}

impl TensorSource for GgufModel {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn tensor(&self, name: &str) -> Result<HostTensor> {
        let tensor = self.as_stored(name)?;
        Ok(match self.permuted_heads(name) {
            Some(heads) => unpermute(&tensor, heads),
            None => tensor,
        })
    }

    fn form(&self, name: &str) -> Result<MatrixForm> {
        let tensor = self.as_stored(name)?;
        let [rows, columns] = tensor.shape[..] else {
            return Err(EngineError::internal(format!("`{name}` has the shape {:?}; expected a matrix", tensor.shape)));
        };
        let mapped = self.permuted_heads(name).is_none();
        Ok(MatrixForm { rows, columns, stored: tensor.stored, double_quant: false, mapped })
    }
}

impl ModelFiles for GgufModel {
    fn metadata(&self) -> Result<ModelMetadata> {
        if let Some(metadata) = self.metadata.get() {
            return Ok(metadata.clone());
        }
        let path = &self.header.file.path;
        let stem = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let name = self.header.string("general.name")?.filter(|name| !name.is_empty()).unwrap_or(stem);
        let tokenizer = TokenizerSource::Gguf(Box::new(read_tokenizer(&self.header)?));
        let tensors = self.names.iter().map(|(name, own)| {
            let tensor = &self.header.tensors[own];
            let bytes = &self.header.file.map[tensor.window.clone()];
            HashedTensor { name, stored: tensor.stored, shape: &tensor.shape, bytes, scales: Vec::new() }
        });
        let metadata = summarize(path, "gguf", name, &self.config, tensors.collect(), tokenizer);
        Ok(self.metadata.get_or_init(|| metadata).clone())
    }
}

fn read_config(header: &GgufHeader) -> Result<ModelConfig> {
    let architecture = header
        .string("general.architecture")?
        .ok_or_else(|| header.corrupt("metadata key `general.architecture` is missing"))?;
    if architecture != "llama" {
        return Err(
            header.unsupported(format_args!("architecture `{architecture}` is not supported; supported: llama"))
        );
    }
    refuse_unsupported_keys(header)?;
    let optional = |key: &str| -> Result<Option<usize>> { Ok(header.unsigned(key)?.map(|value| value as usize)) };
    let size = |key: &str| -> Result<usize> {
        optional(key)?.ok_or_else(|| header.corrupt(format_args!("metadata key `{key}` is missing")))
    };
    let embedding = header
        .tensors
        .get("token_embd.weight")
        .filter(|tensor| tensor.shape.len() == 2)
        .ok_or_else(|| header.corrupt("the matrix `token_embd.weight` is missing"))?;
    let vocab_size = embedding.shape[0];
    if let Some(stated) = optional("llama.vocab_size")?.filter(|stated| *stated != vocab_size) {
        return Err(
            header.corrupt(format_args!("llama.vocab_size is {stated}, token_embd.weight has {vocab_size} rows"))
        );
    }
    let hidden_size = size("llama.embedding_length")?;
    let num_attention_heads = size("llama.attention.head_count")?;
    let head_dim = match optional("llama.attention.key_length")? {
        Some(head_dim) => head_dim,
        None if num_attention_heads > 0 && hidden_size.is_multiple_of(num_attention_heads) => {
            hidden_size / num_attention_heads
        }
        None => {
            return Err(header.corrupt(format_args!(
                "llama.embedding_length {hidden_size} is not a multiple of llama.attention.head_count {num_attention_heads}"
            )));
        }
    };
    for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
        if let Some(other) = optional(key)?.filter(|other| *other != head_dim) {
            return Err(
                header.unsupported(format_args!("{key} is {other}; only the head size {head_dim} is supported"))
            );
        }
    }
    let mut eos_token_ids = Vec::new();
    for name in ["eos", "eot"] {
        eos_token_ids.extend(token_id(header, name, vocab_size)?.filter(|id| !eos_token_ids.contains(id)));
    }
    Ok(ModelConfig {
        model_type: architecture,
        vocab_size,
        hidden_size,
        intermediate_size: size("llama.feed_forward_length")?,
        num_hidden_layers: size("llama.block_count")?,
        num_attention_heads,
        num_key_value_heads: optional("llama.attention.head_count_kv")?.unwrap_or(num_attention_heads),
        head_dim,
        // 0 is llama.cpp's word for none.
        sliding_window: optional("llama.attention.sliding_window")?.filter(|window| *window > 0),
        max_position_embeddings: size("llama.context_length")?,
        rms_norm_eps: header
            .float("llama.attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| header.corrupt("metadata key `llama.attention.layer_norm_rms_epsilon` is missing"))?,
        rope_theta: header.float("llama.rope.freq_base")?.unwrap_or(10_000.0),
        tie_word_embeddings: !header.tensors.contains_key("output.weight"),
        variant: Variant::default(),
        eos_token_ids,
        bos_token_id: token_id(header, "bos", vocab_size)?,
    })
}

/// Features that llama-type files may switch on and this decoder does not compute.
fn refuse_unsupported_keys(header: &GgufHeader) -> Result<()> {
    if let Some(scaling) = header.string("llama.rope.scaling.type")?.filter(|scaling| scaling != "none") {
        return Err(header.unsupported(format_args!("rope scaling `{scaling}` is not supported; supported: none")));
    }
    if let Some(factor) = header.float("llama.rope.scale_linear")?.filter(|factor| *factor != 1.0) {
        return Err(header.unsupported(format_args!("linear rope scaling by {factor} is not supported")));
    }
    if let Some(experts) = header.unsigned("llama.expert_count")?.filter(|experts| *experts > 0) {
        return Err(header.unsupported(format_args!("a mixture of {experts} experts is not supported")));
    }
    Ok(())
}

fn refuse_unsupported_tensors(header: &GgufHeader) -> Result<()> {
    if header.tensors.contains_key("rope_freqs.weight") {
        return Err(
            header.unsupported("rope frequency factors (`rope_freqs.weight`, rope type llama3) are not supported")
        );
    }
    match header.tensors.keys().find(|name| name.starts_with("blk.") && name.ends_with(".bias")) {
        Some(name) => Err(header.unsupported(format_args!("linear layers with a bias (`{name}`) are not supported"))),
        None => Ok(()),
    }
}

/// Puts the rows of a query or key projection back into Hugging Face's order.
///
/// llama.cpp stores the rows of each head with the two rotary halves interleaved: its row `2 j + half` is Hugging Face's row
/// `half * head_dim / 2 + j`. Quantization blocks run along a row, so whole rows move and no block is touched.
fn unpermute(tensor: &HostTensor, heads: usize) -> HostTensor {
    let bytes = tensor.bytes.as_slice();
    let rows = tensor.shape[0];
    let row_bytes = bytes.len() / rows;
    let head_dim = rows / heads;
    let mut ordered = Vec::with_capacity(bytes.len());
    for row in 0..rows {
        let (head, within) = (row / head_dim, row % head_dim);
        let (half, j) = (within / (head_dim / 2), within % (head_dim / 2));
        let stored_row = head * head_dim + 2 * j + half;
        ordered.extend_from_slice(&bytes[stored_row * row_bytes..(stored_row + 1) * row_bytes]);
    }
    HostTensor::new(tensor.stored, tensor.shape.clone(), TensorBytes::Owned(Arc::from(ordered)))
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::GgmlDType;

    use super::*;
    use crate::quant::dequantize;
    use crate::random::MersenneTwister;
    use crate::tensor::StoredType;

    #[test]
    fn unpermute_undoes_the_interleaving_of_llama_cpp() {
        // Two heads of 4 rows, one f32 a row. llama.cpp writes Hugging Face's rows 0 1 2 3 of a head as 0 2 1 3.
        let stored: Vec<u8> = [0f32, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let tensor = HostTensor::new(StoredType::F32, vec![8, 1], TensorBytes::Owned(Arc::from(stored)));
        let ordered = unpermute(&tensor, 2);
        let expected: Vec<u8> = (0..8).flat_map(|x| (x as f32).to_le_bytes()).collect();
        assert_eq!(ordered.bytes.as_slice(), expected);
    }
    /// Two heads of 64 rows, three blocks a row: rows move whole, with the scales in their blocks.
    #[test]
    fn unpermute_moves_rows_of_blocks_whole() {
        let (heads, head_dim, columns) = (2, 64, 96);
        let stored = StoredType::Ggml(GgmlDType::Q5_0);
        let row_bytes = stored.row_bytes(columns).unwrap();
        let mut random = MersenneTwister::new(1);
        let mut bytes: Vec<u8> = (0..heads * head_dim * row_bytes).map(|_| random.next_u32() as u8).collect();
        // Each block's scale, finite.
        bytes.chunks_exact_mut(stored.block_bytes()).for_each(|block| block[1] = 0x30);
        let shape = vec![heads * head_dim, columns];
        let tensor = HostTensor::new(stored, shape, TensorBytes::Owned(Arc::from(bytes)));
        let (before, after) = (dequantize(&tensor), dequantize(&unpermute(&tensor, heads)));
        let row = |numbers: &[f32], row: usize| numbers[row * columns..(row + 1) * columns].to_vec();
        for head in 0..heads {
            for j in 0..head_dim / 2 {
                for half in 0..2 {
                    let ours = row(&after, head * head_dim + half * head_dim / 2 + j);
                    assert_eq!(ours, row(&before, head * head_dim + 2 * j + half), "head {head}, {j}, {half}");
                }
            }
        }
        assert_ne!(before, after);
    }
}
