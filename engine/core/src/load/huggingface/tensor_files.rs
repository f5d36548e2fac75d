//! A folder's weights, mapped: safetensors or torch's files, in one or in the shards that an index names.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path};

use serde_json::Value;

use super::config::read_json;
use super::{safetensors, torch};
use crate::error::{EngineError, ErrorCode, Result};
use crate::load::mapped::MappedFile;
use crate::tensor::StoredType;

/// Type of a tensor's elements in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ElementType {
    F32,
    F16,
    BF16,
    U8,
    I8,
    /// One that nothing here reads, by its name.
    Other(String),
}

/// A tensor of one file: its elements lie in the window, row-major.
#[derive(Clone, Debug)]
pub(super) struct FileTensor {
    pub element: ElementType,
    pub shape: Vec<usize>,
    pub window: Range<usize>,
}

/// The tensors of one file.
pub(super) type NamedTensors = Vec<(String, FileTensor)>;

/// A file format, and how its files are called.
struct Format {
    name: &'static str,
    single: &'static str,
    index: &'static str,
    read: fn(&MappedFile) -> Result<NamedTensors>,
}

/// In order of preference.
const FORMATS: [Format; 2] = [
    Format {
        name: "safetensors",
        single: "model.safetensors",
        index: "model.safetensors.index.json",
        read: safetensors::read_tensors,
    },
    Format {
        name: "pytorch",
        single: "pytorch_model.bin",
        index: "pytorch_model.bin.index.json",
        read: torch::read_tensors,
    },
];

/// Where a tensor lies: which file, which bytes.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub file: usize,
    pub stored: StoredType,
    pub shape: Vec<usize>,
    pub window: Range<usize>,
}

/// All tensors of a folder, by name.
pub(super) struct TensorFiles {
    /// `safetensors` or `pytorch`.
    pub format: &'static str,
    pub files: Vec<MappedFile>,
    pub tensors: BTreeMap<String, Place>,
}

impl TensorFiles {
    /// Maps the folder's weights; where it has both formats, safetensors are read. `MODEL_NOT_FOUND` without any; `MODEL_CORRUPT` where a shard
    /// is missing, malformed or contradicts the index; `MODEL_UNSUPPORTED` where a file holds what is not read, by name.
    pub fn open(folder: &Path) -> Result<Self> {
        for format in &FORMATS {
            let mut all = Self { format: format.name, files: Vec::new(), tensors: BTreeMap::new() };
            if folder.join(format.single).exists() {
                all.add(&folder.join(format.single), format)?;
                return Ok(all);
            }
            if let Some(index) = read_json(&folder.join(format.index))? {
                all.add_shards(folder, format, &index)?;
                return Ok(all);
            }
        }
        let names = FORMATS.each_ref().map(|format| format!("{} nor {}", format.single, format.index)).join(" nor ");
        let message = format!("{} has neither {names}; only such weights are read", folder.display());
        Err(EngineError::new(ErrorCode::ModelNotFound, message))
    }

    fn add_shards(&mut self, folder: &Path, format: &Format, index: &serde_json::Map<String, Value>) -> Result<()> {
        let index_path = folder.join(format.index);
        let corrupt =
            |what: String| EngineError::new(ErrorCode::ModelCorrupt, format!("{}: {what}", index_path.display()));
        let map = index
            .get("weight_map")
            .and_then(Value::as_object)
            .ok_or_else(|| corrupt("`weight_map` is missing".into()))?;
        let mut by_shard: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, shard) in map {
            let shard = shard.as_str().filter(|shard| is_plain_name(shard));
            let shard =
                shard.ok_or_else(|| corrupt(format!("`{tensor}` is not mapped to a file name of this folder")))?;
            by_shard.entry(shard).or_default().push(tensor);
        }
        for (shard, tensors) in by_shard {
            let path = folder.join(shard);
            if !path.exists() {
                return Err(corrupt(format!("the shard {shard} is not in the folder; is the download complete?")));
            }
            self.add(&path, format)?;
            if let Some(absent) = tensors.into_iter().find(|tensor| !self.tensors.contains_key(*tensor)) {
                return Err(corrupt(format!("`{absent}` should be in {shard}, which does not have it")));
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, format: &Format) -> Result<()> {
        let file = MappedFile::open(path)?;
        for (name, FileTensor { element, shape, window }) in (format.read)(&file)? {
            let stored = match element {
                ElementType::F32 => StoredType::F32,
                ElementType::F16 => StoredType::F16,
                ElementType::BF16 => StoredType::BF16,
                other => {
                    let message =
                        format!("{}: tensor `{name}` has type {other}; supported: F32, F16, BF16", path.display());
                    return Err(EngineError::new(ErrorCode::ModelUnsupported, message));
                }
            };
            let place = Place { file: self.files.len(), stored, shape, window };
            if let Some(before) = self.tensors.insert(name.clone(), place) {
                let (path, before) = (path.display(), self.files[before.file].path.display());
                let message = format!("{path}: tensor `{name}` is also in {before}");
                return Err(EngineError::new(ErrorCode::ModelCorrupt, message));
            }
        }
        self.files.push(file);
        Ok(())
    }
}

impl std::fmt::Display for ElementType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Other(name) => f.write_str(name),
            known => write!(f, "{known:?}"),
        }
    }
}

/// Whether a shard's name stays inside its folder.
fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
}
