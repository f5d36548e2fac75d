//! Tensors of a file that torch wrote with `torch.save`: `pytorch_model.bin`, or a shard of it.
//!
//! Format (torch since 1.6): a zip archive with one folder. `data.pkl` is a pickle of the state dict, a dict of tensors by name, in which a
//! tensor is a view of a storage; `data/KEY` are the storages' numbers, little-endian unless `byteorder` says otherwise. Nothing is copied: a
//! tensor is a window of the file.

mod calls;
mod pickle;
mod value;
mod zip;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use super::tensor_files::{ElementType, FileTensor, NamedTensors};
use crate::error::{EngineError, ErrorCode, Result};
use pickle::{PickleError, read_pickle};
use value::{Data, StorageType, StridedTensor, Value};
use zip::Archive;

/// What a file begins with that torch before 1.6 wrote: a pickle of protocol 2 of this number.
const LEGACY: [u8; 14] = [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const PICKLE: &str = "data.pkl";

/// The tensors of a file's bytes, by name.
///
/// Errors: `MODEL_CORRUPT` where the file is cut or contradicts itself; `MODEL_UNSUPPORTED`, by name, for what is no state dict of tensors
/// whose rows lie one after another, and for the format of torch before 1.6.
pub(super) fn read_tensors(path: &Path, bytes: &[u8]) -> Result<NamedTensors> {
    let failed = |code, what: String| EngineError::new(code, format!("{}: {what}", path.display()));
    if bytes.starts_with(&LEGACY) {
        let what = "it has the format that torch wrote before 1.6; expected that of later versions: load it with torch and save it again, or as safetensors";
        return Err(failed(ErrorCode::ModelUnsupported, what.into()));
    }
    let archive = Archive::read(bytes)
        .map_err(|what| failed(ErrorCode::ModelCorrupt, format!("not a complete file of torch's: {what}")))?;
    let pickles: Vec<&str> = archive.entries.keys().filter_map(|name| folder_of_pickle(name)).collect();
    let [folder] = pickles[..] else {
        let what = format!("it has {} entries called {PICKLE} in a folder; expected one", pickles.len());
        return Err(failed(ErrorCode::ModelCorrupt, what));
    };
    let entry = |name: &str| archive.entries.get(format!("{folder}/{name}").as_str()).cloned();
    if let Some(order) = entry("byteorder").map(|window| &bytes[window]).filter(|order| *order != b"little") {
        let what = format!("its byte order is `{}`; supported: little", order.escape_ascii());
        return Err(failed(ErrorCode::ModelUnsupported, what));
    }
    let pickle = &bytes[entry(PICKLE).unwrap_or_default()];
    let data = read_pickle(pickle)
        .map_err(|PickleError { code, what }| failed(code, format!("{PICKLE} is not readable: {what}")))?;
    let storages = data.storages.iter().map(|storage| {
        let name = format!("data/{}", storage.key);
        let window = entry(&name).ok_or_else(|| {
            failed(ErrorCode::ModelCorrupt, format!("storage `{name}` is missing; is the download complete?"))
        })?;
        if Some(window.len() as u64) != storage.len.checked_mul(storage.kind.bytes() as u64) {
            let (found, len, kind) = (window.len(), storage.len, storage.kind.name());
            let what = format!("storage `{name}` has {found} bytes; expected {len} numbers of torch.{kind}");
            return Err(failed(ErrorCode::ModelCorrupt, what));
        }
        Ok(window)
    });
    let storages = storages.collect::<Result<Vec<_>>>()?;
    let Some(Value::Dict(root)) = data.root else {
        let kind = data.root.map_or("nothing", |root| root.kind());
        let what = format!("it holds {kind}; expected a state dict: tensors by name");
        return Err(failed(ErrorCode::ModelUnsupported, what));
    };
    let mut tensors = BTreeMap::new();
    for (key, value) in data.dict(root) {
        let (Value::Text(name), Value::Tensor(number)) = (key, value) else {
            let name = if let Value::Text(name) = key { format!("`{name}`") } else { key.kind().to_owned() };
            let what = format!("{name} is {}; expected a state dict: tensors by name", value.kind());
            return Err(failed(ErrorCode::ModelUnsupported, what));
        };
        let tensor = view(&data, data.tensor(*number), &storages)
            .map_err(|(code, what)| failed(code, format!("tensor `{name}` {what}")))?;
        if tensors.insert((*name).to_owned(), tensor).is_some() {
            return Err(failed(ErrorCode::ModelCorrupt, format!("two tensors are called `{name}`")));
        }
    }
    Ok(tensors.into_iter().collect())
}

/// `model` of `model/data.pkl`.
fn folder_of_pickle(name: &str) -> Option<&str> {
    name.strip_suffix(PICKLE)?.strip_suffix('/').filter(|folder| !folder.contains('/'))
}

/// A tensor as a window of the file. The error is what is wrong with it.
fn view(
    data: &Data<'_>,
    tensor: StridedTensor,
    storages: &[Range<usize>],
) -> std::result::Result<FileTensor, (ErrorCode, String)> {
    let storage = data.storages[tensor.storage as usize];
    let (shape, strides): (Vec<u64>, Vec<u64>) =
        (data.sizes(tensor.shape).collect(), data.sizes(tensor.strides).collect());
    let beyond = || {
        let what = format!(
            "of shape {shape:?} at number {} is not inside its storage of {} numbers",
            tensor.offset, storage.len
        );
        (ErrorCode::ModelCorrupt, what)
    };
    let count = shape.iter().try_fold(1, |count: u64, size| count.checked_mul(*size)).ok_or_else(beyond)?;
    let last = tensor.offset.checked_add(count).ok_or_else(beyond)?;
    // Row-major: the stride of a dimension is the product of those behind it. Where there is one step, it does not matter.
    let mut dense = 1;
    for (size, stride) in shape.iter().zip(&strides).rev() {
        if count == 0 {
            break;
        }
        if *size > 1 && *stride != dense {
            let what = format!(
                "has the shape {shape:?} with strides {strides:?}: transposed, or a part of another; expected rows that lie one after another: save it anew after `.contiguous()`"
            );
            return Err((ErrorCode::ModelUnsupported, what));
        }
        dense *= size;
    }
    if last > storage.len {
        return Err(beyond());
    }
    // Inside the storage, whose bytes were checked to be in the file: no overflow, and every size fits.
    let (start, bytes) = (storages[tensor.storage as usize].start, storage.kind.bytes());
    let window = start + tensor.offset as usize * bytes..start + last as usize * bytes;
    let shape = shape.iter().map(|size| *size as usize).collect();
    Ok(FileTensor { element: element(storage.kind), shape, window })
}

fn element(kind: StorageType) -> ElementType {
    match kind {
        StorageType::Float => ElementType::F32,
        StorageType::Half => ElementType::F16,
        StorageType::BFloat16 => ElementType::BF16,
        StorageType::Byte => ElementType::U8,
        StorageType::Char => ElementType::I8,
        other => ElementType::Other(other.name().to_owned()),
    }
}
