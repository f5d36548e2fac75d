//! A merged GGUF file: matrices in one type; metadata and order of tensors are a GGUF base's.

use std::path::Path;

use super::encode::{Q8_0_BYTES, Q8_0_NUMBERS, floats, q8_0};
use super::output::Output;
use super::tensor::MergedTensors;
use super::written::{Written, written};
use crate::error::{EngineError, Result};
use crate::load::gguf::{Architecture, GgufModel, MetadataValue, ROPE_FACTORS};
use crate::tensor::StoredType;

/// Name of the file in its folder.
pub(super) const FILE: &str = "model.gguf";
const VERSION: u32 = 3;
const ALIGNMENT: u64 = 32;

/// Of matrices. Vectors, which are norms, are f32, as llama.cpp has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MatrixType {
    F16,
    Q8_0,
}

/// How one tensor is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    F32,
    F16,
    Q8_0,
}

impl Encoding {
    fn of(shape: &[usize], matrices: MatrixType) -> Self {
        match (shape, matrices) {
            ([_], _) => Self::F32,
            // Rows that are no whole blocks, as llama.cpp falls back.
            ([.., columns], MatrixType::Q8_0) if columns.is_multiple_of(Q8_0_NUMBERS) => Self::Q8_0,
            _ => Self::F16,
        }
    }

    /// GGML's number.
    fn number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 8,
        }
    }

    fn bytes(self, shape: &[usize]) -> u64 {
        let numbers: usize = shape.iter().product();
        let bytes = match self {
            Self::F32 => 4 * numbers,
            Self::F16 => 2 * numbers,
            Self::Q8_0 => numbers / Q8_0_NUMBERS * Q8_0_BYTES,
        };
        bytes as u64
    }

    fn encode(self, name: &str, numbers: &[f32], out: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::F32 => floats(name, StoredType::F32, numbers, out),
            Self::F16 => floats(name, StoredType::F16, numbers, out),
            Self::Q8_0 => q8_0(name, numbers, out),
        }
    }
}

/// What a file holds beside its numbers.
pub(super) struct Contents {
    /// Without what follows from the type of the matrices.
    pub metadata: Vec<(String, MetadataValue)>,
    /// In the order of the file.
    pub tensors: Vec<Written>,
    /// What rope's frequencies are divided by, as f32, little-endian.
    pub rope_factors: Option<Vec<u8>>,
}

impl Contents {
    /// Those of a base that is a GGUF file.
    pub fn of_base(base: &GgufModel, source: &MergedTensors<'_>) -> Result<Self> {
        let mut tensors = written(&base.architecture().names, source.shapes());
        let order = base.stored_names();
        tensors.sort_by_key(|tensor| order.iter().position(|name| *name == tensor.name));
        let rope_factors = base.rope_factors().map(<[u8]>::to_vec);
        Ok(Self { metadata: base.metadata_values()?, tensors, rope_factors })
    }
}

/// Writes `model.gguf` and returns its bytes.
pub(super) fn write(
    contents: Contents,
    source: &MergedTensors<'_>,
    matrices: MatrixType,
    architecture: &Architecture,
    folder: &Path,
) -> Result<u64> {
    let Contents { metadata: kept, tensors, rope_factors } = contents;
    // `general.file_type`: llama.cpp's LLAMA_FTYPE_MOSTLY_F16 and _Q8_0.
    let file_type: u32 = if matrices == MatrixType::F16 { 1 } else { 7 };
    let replaced = [
        ("general.alignment", MetadataValue::u32(ALIGNMENT as u32)),
        ("general.file_type", MetadataValue::u32(file_type)),
        ("general.quantization_version", MetadataValue::u32(2)),
    ];
    let kept = kept.into_iter().filter(|(key, _)| replaced.iter().all(|(other, _)| key != other));
    let mut metadata: Vec<(String, MetadataValue)> = kept.collect();
    metadata.extend(replaced.map(|(key, value)| (key.to_owned(), value)));
    // llama.cpp's own files begin with it.
    metadata.sort_by_key(|(key, _)| key != "general.architecture");

    let mut output = Output::create(&folder.join(FILE))?;
    output.write(b"GGUF")?;
    output.write(&VERSION.to_le_bytes())?;
    output.write(&((tensors.len() + usize::from(rope_factors.is_some())) as u64).to_le_bytes())?;
    output.write(&(metadata.len() as u64).to_le_bytes())?;
    for (key, value) in &metadata {
        write_text(&mut output, key)?;
        output.write(&value.kind.to_le_bytes())?;
        output.write(&value.bytes)?;
    }
    let mut offset = 0u64;
    let factors_shape = rope_factors.as_ref().map(|factors| vec![factors.len() / size_of::<f32>()]);
    let entries = tensors.iter().map(|tensor| (tensor.name.as_str(), &tensor.shape));
    for (name, shape) in entries.chain(factors_shape.as_ref().map(|shape| (ROPE_FACTORS, shape))) {
        let encoding = Encoding::of(shape, matrices);
        write_text(&mut output, name)?;
        output.write(&(shape.len() as u32).to_le_bytes())?;
        // The fastest dimension first.
        for size in shape.iter().rev() {
            output.write(&(*size as u64).to_le_bytes())?;
        }
        output.write(&encoding.number().to_le_bytes())?;
        output.write(&offset.to_le_bytes())?;
        offset = (offset + encoding.bytes(shape)).next_multiple_of(ALIGNMENT);
    }
    output.pad(ALIGNMENT)?;
    let mut bytes = Vec::new();
    for Written { name, shape, parts } in &tensors {
        let (encoding, start) = (Encoding::of(shape, matrices), output.bytes());
        for part in parts {
            let tensor = source.open(part)?;
            match architecture.permuted_heads(source.config(), part) {
                Some(heads) => {
                    let rows = permuted(&tensor.numbers()?, &source.shapes()[part], heads);
                    encoding.encode(part, &rows, &mut bytes)?;
                    output.write(&bytes)?;
                }
                None => tensor.for_each_piece(|numbers| {
                    encoding.encode(part, numbers, &mut bytes)?;
                    output.write(&bytes)
                })?,
            }
        }
        if output.bytes() - start != encoding.bytes(shape) {
            return Err(EngineError::internal(format!("`{name}` took {} bytes", output.bytes() - start)));
        }
        output.pad(ALIGNMENT)?;
    }
    if let Some(factors) = rope_factors {
        output.write(&factors)?;
        output.pad(ALIGNMENT)?;
    }
    output.finish()
}

fn write_text(output: &mut Output, text: &str) -> Result<()> {
    output.write(&(text.len() as u64).to_le_bytes())?;
    output.write(text.as_bytes())
}

/// Rows of a query or key projection, or of its bias, as llama.cpp stores them: row `2 j + half` of a head is Hugging Face's row `half · head_dim / 2 + j`.
fn permuted(numbers: &[f32], shape: &[usize], heads: usize) -> Vec<f32> {
    let (columns, head_dim) = (shape.get(1).copied().unwrap_or(1), shape[0] / heads);
    let mut rows = Vec::with_capacity(numbers.len());
    for row in 0..shape[0] {
        let (head, within) = (row / head_dim, row % head_dim);
        let from = head * head_dim + within % 2 * (head_dim / 2) + within / 2;
        rows.extend_from_slice(&numbers[from * columns..(from + 1) * columns]);
    }
    rows
}
