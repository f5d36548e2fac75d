//! What a tensor is written as: itself, or what bitsandbytes makes of a linear layer's weight (see `load/huggingface/bitsandbytes.rs`).

use std::io::Write;

use serde_json::json;

use super::shard::Shard;
use crate::error::{EngineError, Result};
use crate::quant::four_bit::{BLOCK, NF4};
use crate::quant::{MatrixForm, NESTED_BLOCK, Scales};
use crate::tensor::{HostTensor, StoredType};

/// Bytes of a quantization state. Its JSON is filled up with spaces: how many digits the offset has is known only when it is made, and a
/// file's header comes first.
const STATE_BYTES: usize = 256;

/// One tensor of the file.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub name: String,
    /// As safetensors calls it.
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    pub bytes: u64,
}

impl Part {
    fn new(name: String, dtype: &'static str, shape: &[usize]) -> Self {
        let element = if dtype == "F32" { 4 } else { 1 };
        Self { name, dtype, shape: shape.to_vec(), bytes: (shape.iter().product::<usize>() * element) as u64 }
    }

    /// Of one element.
    pub fn element_bytes(&self) -> usize {
        match self.dtype {
            "F32" => 4,
            "F16" | "BF16" => 2,
            _ => 1,
        }
    }

    /// A tensor of 16 or 32 bits as it is.
    pub fn plain(name: &str, stored: StoredType, shape: &[usize]) -> Self {
        let dtype = match stored {
            StoredType::F16 => "F16",
            StoredType::BF16 => "BF16",
            _ => "F32",
        };
        let bytes = (shape.iter().product::<usize>() * stored.block_bytes()) as u64;
        Self { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes }
    }
}

/// The parts of a matrix held in this form, in the order in which [`write`] writes them.
pub(super) fn parts_of(name: &str, form: MatrixForm) -> Vec<Part> {
    let module = name.strip_suffix(".weight").unwrap_or(name);
    let (plain, codes) = form.scales();
    let shape = [form.rows, form.columns];
    match form.stored {
        StoredType::Int8 => vec![
            Part::new(name.to_owned(), "I8", &shape),
            Part::new(format!("{module}.SCB"), "F32", &[form.rows]),
            Part::new(format!("{module}.weight_format"), "U8", &[]),
        ],
        StoredType::Nf4 => {
            let part = |part: &str, dtype, len| Part::new(format!("{name}.{part}"), dtype, &[len]);
            let mut parts = vec![Part::new(name.to_owned(), "U8", &[form.code_bytes(), 1])];
            if form.double_quant {
                parts.extend([
                    part("absmax", "U8", codes),
                    part("nested_absmax", "F32", plain),
                    part("nested_quant_map", "F32", 256),
                ]);
            } else {
                parts.push(part("absmax", "F32", plain));
            }
            parts.extend([
                part("quant_map", "F32", NF4.values.len()),
                part("quant_state.bitsandbytes__nf4", "U8", STATE_BYTES),
            ]);
            parts
        }
        stored => vec![Part::plain(name, stored, &shape)],
    }
}

/// torch's name of a type.
pub(super) fn torch_name(stored: StoredType) -> &'static str {
    match stored {
        StoredType::F16 => "float16",
        StoredType::BF16 => "bfloat16",
        _ => "float32",
    }
}

/// Writes a tensor's parts. `original`: the type of its numbers before they were quantized.
pub(super) fn write(tensor: &HostTensor, original: StoredType, parts: &[Part], shard: &mut Shard) -> Result<()> {
    let floats = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let bytes = tensor.bytes.as_slice();
    let mut state = json!({
        "quant_type": "nf4", "blocksize": BLOCK, "dtype": torch_name(original), "shape": tensor.shape,
    });
    let beside: Vec<Vec<u8>> = match &tensor.scales {
        None => Vec::new(),
        Some(Scales::Rows(scales)) => vec![floats(scales), vec![0]],
        Some(Scales::Blocks(scales)) => vec![floats(scales), floats(&NF4.values), padded(&state)?],
        Some(Scales::Nested(nested)) => {
            state["nested_blocksize"] = json!(NESTED_BLOCK);
            state["nested_dtype"] = json!("float32");
            state["nested_offset"] = json!(f64::from(nested.offset));
            let (absmax, code_book) = (floats(&nested.absmax), floats(&nested.code_book));
            vec![nested.codes.clone(), absmax, code_book, floats(&NF4.values), padded(&state)?]
        }
    };
    let mut written = std::iter::once(bytes).chain(beside.iter().map(Vec::as_slice)).zip(parts);
    written.try_for_each(|(bytes, part)| shard.put(part, bytes))
}

/// JSON and spaces.
fn padded(state: &serde_json::Value) -> Result<Vec<u8>> {
    let mut text = [b' '; STATE_BYTES];
    let written = write!(&mut text[..], "{state}");
    written.map_err(|_| EngineError::internal(format!("a quantization state has more than {STATE_BYTES} bytes")))?;
    Ok(text.to_vec())
}
