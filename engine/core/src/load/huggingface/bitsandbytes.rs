//! Checkpoints that bitsandbytes quantized: which tensors belong together, and what they mean.
//!
//! Of a linear layer `P` (bitsandbytes' `Linear4bit` and `Linear8bitLt`, `QuantState.as_dict`):
//!
//! | 4 bits                                   | elements                                                                           |
//! |------------------------------------------|------------------------------------------------------------------------------------|
//! | `P.weight`                               | the codes, two a byte; as `bnb_4bit_quant_storage` says, those bytes seen as another type |
//! | `P.weight.absmax`                        | f32 scales of blocks of 64; with double quantization their u8 codes                |
//! | `P.weight.quant_map`                     | 16 f32: code to value                                                              |
//! | `P.weight.nested_absmax`                 | double quantization: f32 scales of 256 codes                                       |
//! | `P.weight.nested_quant_map`              | double quantization: 256 f32, code to value                                        |
//! | `P.weight.quant_state.bitsandbytes__nf4` | u8: JSON with `quant_type`, `blocksize`, `shape`, `dtype` and `nested_offset`, …   |
//!
//! | 8 bits                                   | elements                                                                           |
//! |------------------------------------------|------------------------------------------------------------------------------------|
//! | `P.weight`                               | i8 codes                                                                           |
//! | `P.SCB`                                  | f32: the largest magnitude of each row                                             |
//! | `P.weight_format`                        | u8: 0, row-major; older files lack it                                              |
//!
//! fp4's state is called `…bitsandbytes__fp4`. Codes and scales are those of [`crate::quant`], and are taken as they are. What a file holds decides, not the configuration's list of
//! modules that were left out: those are stored plainly.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde_json::Value;

use super::tensor_files::{ElementType, FileTensor};
use crate::error::ErrorCode;
use crate::load::mapped::MappedFile;
use crate::quant::four_bit::BLOCK;
use crate::quant::{NESTED_BLOCK, NestedScales, Scales};
use crate::tensor::StoredType;

const STATE: &str = ".quant_state.bitsandbytes__";

/// Types of 4 bits, each by its name behind [`STATE`].
const FOUR_BITS: [StoredType; 2] = [StoredType::Nf4, StoredType::Fp4];

/// Larger states than this are none: they have seven fields.
const MAX_STATE_BYTES: usize = 4096;

/// Tensors by name, each with the number of its file.
pub(super) type Found = BTreeMap<String, (usize, FileTensor)>;

/// What is wrong, for the caller to put the folder before.
type Fault = (ErrorCode, String);

/// Bytes of one file.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub file: usize,
    pub window: Range<usize>,
}

impl Part {
    pub fn bytes<'a>(&self, files: &'a [MappedFile]) -> &'a [u8] {
        &files[self.file].map[self.window.clone()]
    }

    fn numbers<T: FromIterator<f32>>(&self, files: &[MappedFile]) -> T {
        self.bytes(files).as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }
}

/// Where the scales of a matrix are.
#[derive(Clone, Debug)]
pub(super) enum ScaleParts {
    Rows(Part),
    Blocks(Part),
    /// `state`: where the offset is written.
    Nested {
        codes: Part,
        absmax: Part,
        code_book: Part,
        state: Part,
        offset: f32,
    },
}

impl ScaleParts {
    /// Copies the scales out of the files; their sizes were checked.
    pub fn read(&self, files: &[MappedFile]) -> Scales {
        match self {
            Self::Rows(scales) => Scales::Rows(scales.numbers(files)),
            Self::Blocks(scales) => Scales::Blocks(scales.numbers(files)),
            Self::Nested { codes, absmax, code_book, offset, .. } => {
                let mut values = [0.0; 256];
                values.copy_from_slice(&code_book.numbers::<Vec<f32>>(files));
                let (codes, absmax) = (codes.bytes(files).to_vec(), absmax.numbers(files));
                Scales::Nested(Arc::new(NestedScales { codes, absmax, code_book: values, offset: *offset }))
            }
        }
    }

    /// Everything that the scales follow from, in a fixed order.
    pub fn parts(&self) -> Vec<&Part> {
        match self {
            Self::Rows(scales) | Self::Blocks(scales) => vec![scales],
            Self::Nested { codes, absmax, code_book, state, .. } => vec![codes, absmax, code_book, state],
        }
    }
}

/// A quantized matrix.
#[derive(Clone, Debug)]
pub(super) struct QuantizedMatrix {
    pub stored: StoredType,
    pub shape: Vec<usize>,
    pub codes: Part,
    pub scales: ScaleParts,
}

/// Checks the configuration's `quantization_config`. The error says what is not supported.
pub(super) fn check_method(config: &Value) -> Result<(), String> {
    let is_set = |name: &str| config.get(name).and_then(Value::as_bool).unwrap_or(false);
    match config.get("quant_method").filter(|method| !method.is_null()) {
        Some(method) if method == "bitsandbytes" => Ok(()),
        // transformers did not write the method at first.
        None if is_set("load_in_4bit") || is_set("load_in_8bit") => Ok(()),
        method => {
            let method = method.map_or_else(|| "an unnamed method".to_owned(), Value::to_string);
            Err(format!(
                "checkpoints quantized with {method} are not supported; use bitsandbytes', GGUF or 16-bit files"
            ))
        }
    }
}

/// Takes the quantized matrices, and all that belongs to them, out of what was found.
///
/// Errors: `MODEL_CORRUPT` where parts are missing or contradict each other; `MODEL_UNSUPPORTED` for other types of codes and block sizes.
pub(super) fn take_quantized(
    found: &mut Found,
    files: &[MappedFile],
) -> Result<BTreeMap<String, QuantizedMatrix>, Fault> {
    let mut matrices = BTreeMap::new();
    let states: Vec<String> = found.keys().filter(|name| name.contains(STATE)).cloned().collect();
    for state in states {
        let Some((name, kind)) = state.split_once(STATE) else { continue };
        let Some(stored) = FOUR_BITS.into_iter().find(|stored| stored.name() == kind) else {
            let what = format!(
                "`{name}` is quantized as `{kind}`; supported: nf4, fp4 and int8: quantize the model anew, or use 16-bit files"
            );
            return Err((ErrorCode::ModelUnsupported, what));
        };
        let matrix = take_four_bit(found, files, name, stored, &state)
            .map_err(|(code, what)| (code, format!("`{name}` {what}")))?;
        matrices.insert(name.to_owned(), matrix);
    }
    let scales: Vec<String> = found.keys().filter(|name| name.ends_with(".SCB")).cloned().collect();
    for scale in scales {
        let Some(module) = scale.strip_suffix(".SCB") else { continue };
        let name = format!("{module}.weight");
        let matrix =
            take_int8(found, files, module).map_err(|what| (ErrorCode::ModelCorrupt, format!("`{name}` {what}")))?;
        matrices.insert(name, matrix);
    }
    Ok(matrices)
}

/// A tensor that belongs to a quantized one, of this type and number of elements.
fn take(found: &mut Found, name: &str, element: &ElementType, count: usize) -> Result<Part, String> {
    let (file, tensor) = found.remove(name).ok_or_else(|| format!("is quantized, but `{name}` is missing"))?;
    if tensor.element != *element || tensor.shape.iter().product::<usize>() != count {
        let FileTensor { element: kind, shape, .. } = tensor;
        return Err(format!("is quantized, but `{name}` is {kind} {shape:?}; expected {count} numbers of {element}"));
    }
    Ok(Part { file, window: tensor.window })
}

/// `stored`: the type that the state's name says.
fn take_four_bit(
    found: &mut Found,
    files: &[MappedFile],
    name: &str,
    stored: StoredType,
    state_name: &str,
) -> Result<QuantizedMatrix, Fault> {
    let corrupt = |what: String| (ErrorCode::ModelCorrupt, what);
    let missing = |part: &str| corrupt(format!("is quantized, but `{part}` is missing"));
    let (file, state) = found.remove(state_name).ok_or_else(|| missing(state_name))?;
    let state_part = Part { file, window: state.window };
    if state_part.window.len() > MAX_STATE_BYTES {
        let found = state_part.window.len();
        return Err(corrupt(format!("has a quantization state of {found} bytes; expected at most {MAX_STATE_BYTES}")));
    }
    let state: Value = serde_json::from_slice(state_part.bytes(files))
        .map_err(|error| corrupt(format!("has a quantization state that is not valid JSON: {error}")))?;
    let size = |field: &str| state.get(field).and_then(Value::as_u64);
    let nested = state.get("nested_blocksize").is_some();
    for (field, expected) in
        [("blocksize", BLOCK), ("nested_blocksize", NESTED_BLOCK)].into_iter().take(1 + usize::from(nested))
    {
        if size(field) != Some(expected as u64) {
            let value = state.get(field).unwrap_or(&Value::Null);
            let what = format!("is quantized with {field} {value}; supported: {expected}");
            return Err((ErrorCode::ModelUnsupported, what));
        }
    }
    let whole = |size: &Value| size.as_u64().and_then(|size| usize::try_from(size).ok());
    let sizes = state.get("shape").and_then(Value::as_array);
    let shape: Option<Vec<usize>> = sizes.and_then(|sizes| sizes.iter().map(whole).collect());
    let count = |shape: &[usize]| if let [rows, columns] = shape { rows.checked_mul(*columns) } else { None };
    let shape = shape.filter(|shape| count(shape).is_some());
    let shape = shape.ok_or_else(|| corrupt("has a quantization state without the shape of a matrix".into()))?;
    let count = shape.iter().product::<usize>();
    let (file, codes) = found.remove(name).ok_or_else(|| missing(name))?;
    if codes.window.len() != count.div_ceil(2) {
        let (bytes, expected) = (codes.window.len(), count.div_ceil(2));
        return Err(corrupt(format!("has {bytes} bytes of codes; {shape:?} of 4 bits take {expected}")));
    }
    let code_book = take(found, &format!("{name}.quant_map"), &ElementType::F32, 16).map_err(corrupt)?;
    if stored.code_book().is_none_or(|known| code_book.numbers::<Vec<f32>>(files) != known.values) {
        return Err((ErrorCode::ModelUnsupported, format!("is quantized with other values than {}'s", stored.name())));
    }
    let blocks = count.div_ceil(BLOCK);
    let absmax = format!("{name}.absmax");
    let scales = if nested {
        let offset = state.get("nested_offset").and_then(Value::as_f64);
        let offset = offset.ok_or_else(|| corrupt("has a quantization state without `nested_offset`".into()))? as f32;
        let part = |found: &mut Found, part: &str, count| {
            take(found, &format!("{name}.{part}"), &ElementType::F32, count).map_err(corrupt)
        };
        ScaleParts::Nested {
            codes: take(found, &absmax, &ElementType::U8, blocks).map_err(corrupt)?,
            absmax: part(found, "nested_absmax", blocks.div_ceil(NESTED_BLOCK))?,
            code_book: part(found, "nested_quant_map", 256)?,
            state: state_part,
            offset,
        }
    } else {
        ScaleParts::Blocks(take(found, &absmax, &ElementType::F32, blocks).map_err(corrupt)?)
    };
    Ok(QuantizedMatrix { stored, shape, codes: Part { file, window: codes.window }, scales })
}

fn take_int8(found: &mut Found, files: &[MappedFile], module: &str) -> Result<QuantizedMatrix, String> {
    let name = format!("{module}.weight");
    let (_, weight) = found.get(&name).ok_or_else(|| format!("is missing, but `{module}.SCB` is there"))?;
    let shape = weight.shape.clone();
    let [rows, columns] = shape[..] else { return Err(format!("has the shape {shape:?}; expected a matrix")) };
    let codes = take(found, &name, &ElementType::I8, rows * columns)?;
    let scales = take(found, &format!("{module}.SCB"), &ElementType::F32, rows)?;
    let format = format!("{module}.weight_format");
    if found.contains_key(&format) {
        let layout = take(found, &format, &ElementType::U8, 1)?;
        if layout.bytes(files) != [0] {
            return Err(format!("has the layout {:?}; supported: 0, rows one after another", layout.bytes(files)));
        }
    }
    Ok(QuantizedMatrix { stored: StoredType::Int8, shape, codes, scales: ScaleParts::Rows(scales) })
}
