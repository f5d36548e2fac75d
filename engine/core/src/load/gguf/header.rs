//! The header of a GGUF file: metadata and the table of tensors, checked against the file's size before anything is used.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use candle_core::quantized::GgmlDType;

use super::cursor::Cursor;
use super::value::{MetadataValue, Value, ValueType};
use crate::error::{EngineError, ErrorCode, Result};
use crate::load::mapped::MappedFile;
use crate::tensor::StoredType;

const MAX_KEY_BYTES: usize = 65_535;
const MAX_DIMENSIONS: u32 = 4;
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 20;

/// A tensor's type, shape (row-major, as in Hugging Face) and place in the file.
#[derive(Clone, Debug)]
pub(super) struct GgufTensor {
    pub stored: StoredType,
    pub shape: Vec<usize>,
    pub window: Range<usize>,
}

/// The parsed header over its mapped file.
pub(super) struct GgufHeader {
    pub file: MappedFile,
    metadata: BTreeMap<String, Value>,
    pub tensors: BTreeMap<String, GgufTensor>,
    short_lengths: bool,
}

impl GgufHeader {
    /// Maps the file and reads its header. `MODEL_CORRUPT` where anything is malformed, doubled, misaligned, overlapping or outside the file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = MappedFile::open(path)?;
        let mut cursor = Cursor::new(path, &file.map);
        let magic = cursor.u32("the magic number")?;
        if magic != u32::from_le_bytes(*b"GGUF") {
            return Err(cursor.corrupt(format_args!(
                "expected the bytes `GGUF` at its start, found {:?}",
                String::from_utf8_lossy(&magic.to_le_bytes())
            )));
        }
        let version = cursor.u32("the version")?;
        if !(1..=3).contains(&version) {
            let hint = if (1..=3).contains(&version.swap_bytes()) { " (a big-endian file)" } else { "" };
            let message = format!(
                "{}: GGUF version {version}{hint}; versions 1 to 3, little-endian, are supported",
                path.display()
            );
            return Err(EngineError::new(ErrorCode::ModelUnsupported, message));
        }
        cursor.short_lengths = version == 1;
        let length_bytes = if cursor.short_lengths { 4 } else { 8 };
        // A tensor: name length, dimension count, type, offset. A key: its length, type, one byte of value.
        let tensor_count = cursor.count(length_bytes + 16, "the number of tensors")?;
        let key_count = cursor.count(length_bytes + 5, "the number of metadata keys")?;

        let mut metadata = BTreeMap::new();
        for _ in 0..key_count {
            let key = cursor.string(MAX_KEY_BYTES, "a metadata key")?;
            let value = Value::read(&mut cursor)?;
            if metadata.insert(key.to_owned(), value).is_some() {
                return Err(cursor.corrupt(format_args!("metadata key `{key}` occurs twice")));
            }
        }
        let mut table = Vec::with_capacity(tensor_count);
        for _ in 0..tensor_count {
            table.push(read_tensor_entry(&mut cursor)?);
        }
        let header_end = cursor.position() as u64;
        let short_lengths = cursor.short_lengths;
        let mut header = Self { file, metadata, tensors: BTreeMap::new(), short_lengths };
        let alignment = header.alignment()?;
        header.place_tensors(table, header_end.next_multiple_of(alignment), alignment)?;
        Ok(header)
    }

    /// `MODEL_CORRUPT` with the path.
    pub fn corrupt(&self, what: impl std::fmt::Display) -> EngineError {
        EngineError::new(ErrorCode::ModelCorrupt, format!("{}: {what}", self.file.path.display()))
    }

    /// `MODEL_UNSUPPORTED` with the path.
    pub fn unsupported(&self, what: impl std::fmt::Display) -> EngineError {
        EngineError::new(ErrorCode::ModelUnsupported, format!("{}: {what}", self.file.path.display()))
    }

    fn alignment(&self) -> Result<u64> {
        let alignment = self.unsigned("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
        if alignment.is_power_of_two() && alignment <= MAX_ALIGNMENT {
            return Ok(alignment);
        }
        Err(self
            .corrupt(format_args!("general.alignment is {alignment}; expected a power of two up to {MAX_ALIGNMENT}")))
    }

    fn place_tensors(&mut self, table: Vec<TensorEntry>, data_start: u64, alignment: u64) -> Result<()> {
        let file_bytes = self.file.map.len() as u64;
        for entry in table {
            let TensorEntry { name, stored, shape, offset, bytes } = entry;
            if !offset.is_multiple_of(alignment) {
                return Err(self
                    .corrupt(format_args!("tensor `{name}` lies at offset {offset}, not a multiple of {alignment}")));
            }
            let end = data_start.checked_add(offset).and_then(|start| start.checked_add(bytes));
            let Some(end) = end.filter(|end| *end <= file_bytes) else {
                return Err(self.corrupt(format_args!(
                    "tensor `{name}` needs {bytes} bytes from offset {offset} of the data, the file ends at byte {file_bytes}; is it a partial download?"
                )));
            };
            let tensor = GgufTensor { stored, shape, window: (end - bytes) as usize..end as usize };
            if self.tensors.insert(name.clone(), tensor).is_some() {
                return Err(self.corrupt(format_args!("tensor `{name}` occurs twice")));
            }
        }
        let mut places: Vec<_> = self.tensors.iter().map(|(name, tensor)| (&tensor.window, name)).collect();
        places.sort_by_key(|(window, _)| (window.start, window.end));
        match places.windows(2).find(|pair| pair[0].0.end > pair[1].0.start) {
            Some(pair) => Err(self.corrupt(format_args!("tensors `{}` and `{}` overlap", pair[0].1, pair[1].1))),
            None => Ok(()),
        }
    }

    /// Every metadata key and value, as versions 2 and 3 write them.
    pub fn metadata_values(&self) -> Result<Vec<(String, MetadataValue)>> {
        if self.short_lengths {
            return Err(self.unsupported("metadata of GGUF version 1 cannot be copied; convert the file to version 3"));
        }
        let values = self.metadata.iter();
        Ok(values.map(|(key, value)| (key.clone(), MetadataValue::new(value, &self.file.map))).collect())
    }

    fn scalar(&self, key: &str) -> Result<Option<(ValueType, &[u8])>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Scalar { kind, window }) => Ok(Some((*kind, &self.file.map[window.clone()]))),
            Some(_) => {
                Err(self.corrupt(format_args!("metadata key `{key}` holds a string or an array; expected one number")))
            }
        }
    }

    /// A whole number that is not negative, whatever its stored width.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>> {
        let Some((kind, bytes)) = self.scalar(key)? else { return Ok(None) };
        match integer(kind, bytes).and_then(|value| u64::try_from(value).ok()) {
            Some(value) => Ok(Some(value)),
            None => Err(self.corrupt(format_args!("metadata key `{key}` is not a whole number of at least 0"))),
        }
    }

    /// A floating-point number.
    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        match self.scalar(key)? {
            None => Ok(None),
            Some((ValueType::F32, bytes)) => Ok(Some(f64::from(f32::from_le_bytes(fixed(bytes))))),
            Some((ValueType::F64, bytes)) => Ok(Some(f64::from_le_bytes(fixed(bytes)))),
            Some(_) => Err(self.corrupt(format_args!("metadata key `{key}` is not a floating-point number"))),
        }
    }

    /// A truth value.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>> {
        match self.scalar(key)? {
            None => Ok(None),
            Some((ValueType::Bool, [0])) => Ok(Some(false)),
            Some((ValueType::Bool, [1])) => Ok(Some(true)),
            Some(_) => Err(self.corrupt(format_args!("metadata key `{key}` is not a truth value (0 or 1)"))),
        }
    }

    /// A UTF-8 string.
    pub fn string(&self, key: &str) -> Result<Option<String>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::String { window }) => self.utf8(key, window.clone()).map(Some),
            Some(_) => Err(self.corrupt(format_args!("metadata key `{key}` is not a string"))),
        }
    }

    fn utf8(&self, key: &str, window: Range<usize>) -> Result<String> {
        let text = std::str::from_utf8(&self.file.map[window]);
        text.map(str::to_owned)
            .map_err(|_| self.corrupt(format_args!("metadata key `{key}` holds text that is not UTF-8")))
    }

    /// An array of UTF-8 strings.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<String>>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Array { element: ValueType::String, count, window }) => {
                let mut cursor = Cursor::new(&self.file.path, &self.file.map[window.clone()]);
                cursor.short_lengths = self.short_lengths;
                let text = |inner: Range<usize>| self.utf8(key, window.start + inner.start..window.start + inner.end);
                (0..*count).map(|_| cursor.string_window(key).and_then(text)).collect::<Result<_>>().map(Some)
            }
            Some(_) => Err(self.corrupt(format_args!("metadata key `{key}` is not an array of strings"))),
        }
    }

    /// An array of f32.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f32>>> {
        let Some(bytes) = self.numbers(key, ValueType::F32)? else { return Ok(None) };
        Ok(Some(bytes.chunks_exact(4).map(|chunk| f32::from_le_bytes(fixed(chunk))).collect()))
    }

    /// An array of i32.
    pub fn signed_integers(&self, key: &str) -> Result<Option<Vec<i32>>> {
        let Some(bytes) = self.numbers(key, ValueType::I32)? else { return Ok(None) };
        Ok(Some(bytes.chunks_exact(4).map(|chunk| i32::from_le_bytes(fixed(chunk))).collect()))
    }

    fn numbers(&self, key: &str, expected: ValueType) -> Result<Option<&[u8]>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Array { element, window, .. }) if *element == expected => {
                Ok(Some(&self.file.map[window.clone()]))
            }
            Some(_) => Err(self.corrupt(format_args!("metadata key `{key}` is not an array of {expected:?}"))),
        }
    }
}

struct TensorEntry {
    name: String,
    stored: StoredType,
    shape: Vec<usize>,
    offset: u64,
    bytes: u64,
}

fn read_tensor_entry(cursor: &mut Cursor<'_>) -> Result<TensorEntry> {
    let name = cursor.string(MAX_KEY_BYTES, "a tensor's name")?.to_owned();
    let dimensions = cursor.u32("a tensor's number of dimensions")?;
    if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
        return Err(
            cursor.corrupt(format_args!("tensor `{name}` has {dimensions} dimensions; expected 1 to {MAX_DIMENSIONS}"))
        );
    }
    let mut shape = Vec::with_capacity(dimensions as usize);
    let mut elements = 1u64;
    for _ in 0..dimensions {
        let size = cursor.length("a tensor's dimension")?;
        elements = elements
            .checked_mul(size)
            .filter(|product| *product > 0 && *product <= i64::MAX as u64)
            .ok_or_else(|| {
                cursor.corrupt(format_args!(
                    "the dimensions of tensor `{name}` are zero or their product does not fit 63 bits"
                ))
            })?;
        shape.push(size as usize);
    }
    // GGUF lists the fastest dimension first.
    shape.reverse();
    let type_number = cursor.u32("a tensor's type")?;
    let stored = stored_type(type_number).ok_or_else(|| {
        let message = format!(
            "{}: tensor `{name}` has GGML type {type_number}; supported are f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q8_1, q2_k to q6_k, q8_k",
            cursor.path().display()
        );
        EngineError::new(ErrorCode::ModelUnsupported, message)
    })?;
    let offset = cursor.u64("a tensor's offset")?;
    let row = shape[shape.len() - 1];
    let rows = elements / row as u64;
    let bytes = stored.row_bytes(row).and_then(|bytes| (bytes as u64).checked_mul(rows)).ok_or_else(|| {
        cursor.corrupt(format_args!(
            "rows of tensor `{name}` have {row} elements, not a whole number of {} blocks of {}",
            stored.name(),
            stored.block_elements()
        ))
    })?;
    Ok(TensorEntry { name, stored, shape, offset, bytes })
}

/// GGML's type numbers, as far as candle has kernels for them.
fn stored_type(number: u32) -> Option<StoredType> {
    Some(match number {
        0 => StoredType::F32,
        1 => StoredType::F16,
        30 => StoredType::BF16,
        2 => StoredType::Ggml(GgmlDType::Q4_0),
        3 => StoredType::Ggml(GgmlDType::Q4_1),
        6 => StoredType::Ggml(GgmlDType::Q5_0),
        7 => StoredType::Ggml(GgmlDType::Q5_1),
        8 => StoredType::Ggml(GgmlDType::Q8_0),
        9 => StoredType::Ggml(GgmlDType::Q8_1),
        10 => StoredType::Ggml(GgmlDType::Q2K),
        11 => StoredType::Ggml(GgmlDType::Q3K),
        12 => StoredType::Ggml(GgmlDType::Q4K),
        13 => StoredType::Ggml(GgmlDType::Q5K),
        14 => StoredType::Ggml(GgmlDType::Q6K),
        15 => StoredType::Ggml(GgmlDType::Q8K),
        _ => return None,
    })
}

fn integer(kind: ValueType, bytes: &[u8]) -> Option<i128> {
    Some(match kind {
        ValueType::U8 => i128::from(bytes[0]),
        ValueType::I8 => i128::from(i8::from_le_bytes(fixed(bytes))),
        ValueType::U16 => i128::from(u16::from_le_bytes(fixed(bytes))),
        ValueType::I16 => i128::from(i16::from_le_bytes(fixed(bytes))),
        ValueType::U32 => i128::from(u32::from_le_bytes(fixed(bytes))),
        ValueType::I32 => i128::from(i32::from_le_bytes(fixed(bytes))),
        ValueType::U64 => i128::from(u64::from_le_bytes(fixed(bytes))),
        ValueType::I64 => i128::from(i64::from_le_bytes(fixed(bytes))),
        ValueType::F32 | ValueType::F64 | ValueType::Bool | ValueType::String | ValueType::Array => return None,
    })
}

/// The bytes as an array; windows of scalars and chunks always have the right size.
fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}
