//! A model in a GGUF file: configuration from its metadata, tensors under Hugging Face names.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::architectures::Architecture;
use super::config::{ROPE_FACTORS, read_config};
use super::header::GgufHeader;
use super::tokenizer::read_tokenizer;
use super::value::MetadataValue;
use crate::config::ModelConfig;
use crate::error::{EngineError, Result};
use crate::load::content_hash::HashedTensor;
use crate::load::expected::{check_sizes, check_tensors, expected_tensors};
use crate::load::metadata::{ModelMetadata, TokenizerSource};
use crate::load::{Locations, ModelFiles, summarize};
use crate::model::TensorSource;
use crate::quant::MatrixForm;
use crate::tensor::{HostTensor, TensorBytes};

/// An opened GGUF file whose tensors are exactly those of its configuration.
pub struct GgufModel {
    header: GgufHeader,
    architecture: &'static Architecture,
    config: ModelConfig,
    locations: Locations,
    metadata: OnceLock<ModelMetadata>,
}

impl GgufModel {
    /// Maps and checks the file; see [`crate::load::open`] for the errors.
    pub fn open(path: &Path) -> Result<Self> {
        let header = GgufHeader::open(path)?;
        let (architecture, config) = read_config(&header)?;
        check_sizes(&config).map_err(|message| header.corrupt(message))?;
        let (stored, locations) = architecture.names.locate(&expected_tensors(&config));
        let found = header.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.shape.as_slice()));
        let found = found.filter(|(name, _)| *name != ROPE_FACTORS);
        check_tensors(&stored, found).map_err(|message| header.corrupt(message))?;
        Ok(Self { header, architecture, config, locations, metadata: OnceLock::new() })
    }

    /// What llama.cpp computes.
    pub(crate) fn architecture(&self) -> &'static Architecture {
        self.architecture
    }

    /// Each tensor's name, in the order in which the file has them.
    pub(crate) fn stored_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.header.tensors.keys().map(String::as_str).collect();
        names.sort_by_key(|name| self.header.tensors[*name].window.start);
        names
    }

    /// Rope's factors as the file has them: f32, little-endian.
    pub(crate) fn rope_factors(&self) -> Option<&[u8]> {
        self.header.tensors.get(ROPE_FACTORS).map(|tensor| &self.header.file.map[tensor.window.clone()])
    }

    /// Every metadata key and value.
    ///
    /// Errors: `MODEL_UNSUPPORTED` for a file of version 1, whose texts have other lengths.
    pub(crate) fn metadata_values(&self) -> Result<Vec<(String, MetadataValue)>> {
        self.header.metadata_values()
    }

    fn as_stored(&self, name: &str) -> Result<HostTensor> {
        let location = self.locations.get(name);
        let location = location.ok_or_else(|| EngineError::internal(format!("the model has no tensor `{name}`")))?;
        let entry = &self.header.tensors[&location.name];
        let tensor = self.header.file.tensor(entry.stored, entry.shape.clone(), entry.window.clone());
        location.rows.clone().map_or(Ok(tensor.clone()), |rows| tensor.rows(rows))
    }

    /// Heads of a tensor of Llama's whose rows the file permutes.
    fn permuted_heads(&self, name: &str) -> Option<usize> {
        self.architecture.permuted_heads(&self.config, name)
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
        let form = MatrixForm::of(name, &self.as_stored(name)?)?;
        Ok(MatrixForm { mapped: form.mapped && self.permuted_heads(name).is_none(), ..form })
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
        // By Llama's names, but for what several of them share.
        let tensors: BTreeMap<&str, &str> = self
            .locations
            .iter()
            .map(|(name, location)| (location.rows.as_ref().map_or(name, |_| &location.name).as_str(), &*location.name))
            .collect();
        let tensors = tensors.into_iter().map(|(name, own)| {
            let tensor = &self.header.tensors[own];
            let bytes = &self.header.file.map[tensor.window.clone()];
            HashedTensor { name, stored: tensor.stored, shape: &tensor.shape, bytes, scales: Vec::new() }
        });
        let metadata = summarize(path, "gguf", name, &self.config, tensors.collect(), tokenizer);
        Ok(self.metadata.get_or_init(|| metadata).clone())
    }
}

/// Puts the rows of a query or key projection, or of its bias, back into Hugging Face's order.
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
