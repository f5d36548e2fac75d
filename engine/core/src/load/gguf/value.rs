//! Metadata values. Strings and arrays stay windows of the file until somebody asks for them: a huge array costs no memory.

use std::ops::Range;

use super::cursor::Cursor;
use crate::error::Result;

/// Arrays of arrays deeper than this are refused; no known key nests at all.
const MAX_ARRAY_DEPTH: usize = 4;

/// Type of a metadata value, in the order of GGUF's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self> {
        Ok(match cursor.u32("a metadata type")? {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::String,
            9 => Self::Array,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            other => {
                return Err(cursor.corrupt(format_args!("metadata type {other} does not exist; types are 0 to 12")));
            }
        })
    }

    /// Bytes of one value; `None` for strings and arrays.
    fn size(self) -> Option<u64> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }
}

/// Where a value lies: for an array, its elements' type, count and window.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Scalar { kind: ValueType, window: Range<usize> },
    String { window: Range<usize> },
    Array { element: ValueType, count: usize, window: Range<usize> },
}

impl Value {
    /// Reads type and value; the cursor then stands behind it.
    pub fn read(cursor: &mut Cursor<'_>) -> Result<Self> {
        let kind = ValueType::read(cursor)?;
        match (kind, kind.size()) {
            (_, Some(size)) => Ok(Self::Scalar { kind, window: cursor.window(size, "a metadata value")? }),
            (ValueType::String, None) => Ok(Self::String { window: cursor.string_window("a metadata string")? }),
            (_, None) => read_array(cursor, 0),
        }
    }
}

/// A value as it is written: GGUF's number of its type, and the bytes behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MetadataValue {
    pub kind: u32,
    pub bytes: Vec<u8>,
}

impl MetadataValue {
    pub fn u32(value: u32) -> Self {
        Self { kind: ValueType::U32 as u32, bytes: value.to_le_bytes().to_vec() }
    }

    pub fn f32(value: f32) -> Self {
        Self { kind: ValueType::F32 as u32, bytes: value.to_le_bytes().to_vec() }
    }

    pub fn boolean(value: bool) -> Self {
        Self { kind: ValueType::Bool as u32, bytes: vec![u8::from(value)] }
    }

    pub fn text(text: &str) -> Self {
        Self { kind: ValueType::String as u32, bytes: with_length(text) }
    }

    pub fn texts<'a>(texts: impl ExactSizeIterator<Item = &'a str>) -> Self {
        Self::array(ValueType::String, texts.len(), texts.flat_map(with_length))
    }

    pub fn i32s(values: impl ExactSizeIterator<Item = i32>) -> Self {
        Self::array(ValueType::I32, values.len(), values.flat_map(i32::to_le_bytes))
    }

    pub fn f32s(values: impl ExactSizeIterator<Item = f32>) -> Self {
        Self::array(ValueType::F32, values.len(), values.flat_map(f32::to_le_bytes))
    }

    fn array(element: ValueType, count: usize, contents: impl Iterator<Item = u8>) -> Self {
        let mut bytes = (element as u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(&(count as u64).to_le_bytes());
        bytes.extend(contents);
        Self { kind: ValueType::Array as u32, bytes }
    }

    /// `file`: what the value's window is of; its lengths have 64 bits.
    pub(super) fn new(value: &Value, file: &[u8]) -> Self {
        match value {
            Value::Scalar { kind, window } => Self { kind: *kind as u32, bytes: file[window.clone()].to_vec() },
            Value::String { window } => {
                let mut bytes = (window.len() as u64).to_le_bytes().to_vec();
                bytes.extend_from_slice(&file[window.clone()]);
                Self { kind: ValueType::String as u32, bytes }
            }
            Value::Array { element, count, window } => {
                let mut bytes = (*element as u32).to_le_bytes().to_vec();
                bytes.extend_from_slice(&(*count as u64).to_le_bytes());
                bytes.extend_from_slice(&file[window.clone()]);
                Self { kind: ValueType::Array as u32, bytes }
            }
        }
    }
}

fn with_length(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn read_array(cursor: &mut Cursor<'_>, depth: usize) -> Result<Value> {
    if depth == MAX_ARRAY_DEPTH {
        return Err(cursor.corrupt(format_args!("metadata arrays nest deeper than {MAX_ARRAY_DEPTH}")));
    }
    let element = ValueType::read(cursor)?;
    let length_bytes = if cursor.short_lengths { 4 } else { 8 };
    let minimum = element.size().unwrap_or(if element == ValueType::Array { 4 + length_bytes } else { length_bytes });
    let count = cursor.count(minimum, "a metadata array's length")?;
    let start = cursor.position();
    match element.size() {
        Some(size) => {
            cursor.window(count as u64 * size, "a metadata array")?;
        }
        None if element == ValueType::String => {
            for _ in 0..count {
                cursor.string_window("a string of a metadata array")?;
            }
        }
        None => {
            for _ in 0..count {
                read_array(cursor, depth + 1)?;
            }
        }
    }
    Ok(Value::Array { element, count, window: start..cursor.position() })
}
