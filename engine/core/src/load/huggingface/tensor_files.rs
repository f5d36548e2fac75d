//! A folder's weights, mapped: safetensors or torch's files, in one or in the shards that an index names.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path};

use serde_json::Value;

use super::bitsandbytes::{Found, QuantizedMatrix, ScaleParts, take_quantized};
use super::fields::read_json;
use super::{safetensors, torch};
use crate::error::{EngineError, ErrorCode, Result};
use crate::load::content_hash::HashedTensor;
use crate::load::mapped::MappedFile;
use crate::quant::MatrixForm;
use crate::tensor::{HostTensor, StoredType};

/// Type of a tensor's elements in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ElementType {
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
pub(crate) struct FileTensor {
    pub element: ElementType,
    pub shape: Vec<usize>,
    pub window: Range<usize>,
}

/// The tensors of one file.
pub(crate) type NamedTensors = Vec<(String, FileTensor)>;

/// A file format, and how its files are called.
struct Format {
    name: &'static str,
    single: &'static str,
    index: &'static str,
    read: fn(&Path, &[u8]) -> Result<NamedTensors>,
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

/// The tensors of an adapter's file, which is torch's where its name ends in `.bin`, else safetensors. Errors: those of a model's files.
pub(crate) fn read_tensors(path: &Path, bytes: &[u8]) -> Result<NamedTensors> {
    match path.extension() {
        Some(extension) if extension == "bin" => torch::read_tensors(path, bytes),
        _ => safetensors::read_tensors(path, bytes),
    }
}

/// Where a tensor lies: which file, which bytes.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub file: usize,
    pub stored: StoredType,
    pub shape: Vec<usize>,
    pub window: Range<usize>,
    /// Of int8, nf4 and fp4, whose codes are in the window.
    pub scales: Option<ScaleParts>,
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
            let mut reader = Reader { format, files: Vec::new(), found: BTreeMap::new() };
            if folder.join(format.single).exists() {
                reader.add(&folder.join(format.single))?;
                return reader.finish(folder);
            }
            if let Some(index) = read_json(&folder.join(format.index))? {
                reader.add_shards(folder, &index)?;
                return reader.finish(folder);
            }
        }
        let names = FORMATS.each_ref().map(|format| format!("{} nor {}", format.single, format.index)).join(" nor ");
        let message = format!("{} has neither {names}; only such weights are read", folder.display());
        Err(EngineError::new(ErrorCode::ModelNotFound, message))
    }

    /// A tensor as a window of its file; scales beside it are copied.
    pub fn tensor(&self, place: &Place) -> HostTensor {
        let tensor = self.files[place.file].tensor(place.stored, place.shape.clone(), place.window.clone());
        HostTensor { scales: place.scales.as_ref().map(|scales| scales.read(&self.files)), ..tensor }
    }

    /// Sizes and type of a quantized matrix; `None` for what has no scales beside it.
    pub fn quantized_form(&self, place: &Place) -> Option<MatrixForm> {
        let double_quant = matches!(place.scales.as_ref()?, ScaleParts::Nested { .. });
        let [rows, columns] = place.shape[..] else { return None };
        // Codes are bytes, which lie right anywhere.
        Some(MatrixForm { rows, columns, stored: place.stored, double_quant, mapped: true })
    }

    /// A tensor as it lies in the files, for the content hash.
    pub fn hashed<'a>(&'a self, name: &'a str, place: &'a Place) -> HashedTensor<'a> {
        let bytes = &self.files[place.file].map[place.window.clone()];
        let scales = place.scales.iter().flat_map(|scales| scales.parts());
        let scales = scales.map(|part| part.bytes(&self.files)).collect();
        HashedTensor { name, stored: place.stored, shape: &place.shape, bytes, scales }
    }
}

/// Files under way to [`TensorFiles`].
struct Reader<'a> {
    format: &'a Format,
    files: Vec<MappedFile>,
    found: Found,
}

impl Reader<'_> {
    fn add_shards(&mut self, folder: &Path, index: &serde_json::Map<String, Value>) -> Result<()> {
        let index_path = folder.join(self.format.index);
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
            self.add(&path)?;
            if let Some(absent) = tensors.into_iter().find(|tensor| !self.found.contains_key(*tensor)) {
                return Err(corrupt(format!("`{absent}` should be in {shard}, which does not have it")));
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let file = MappedFile::open(path)?;
        for (name, tensor) in (self.format.read)(path, &file.map)? {
            if let Some((before, _)) = self.found.insert(name.clone(), (self.files.len(), tensor)) {
                let (path, before) = (path.display(), self.files[before].path.display());
                let message = format!("{path}: tensor `{name}` is also in {before}");
                return Err(EngineError::new(ErrorCode::ModelCorrupt, message));
            }
        }
        self.files.push(file);
        Ok(())
    }

    /// Puts together what belongs together; what is left must be of a type that stands alone.
    fn finish(self, folder: &Path) -> Result<TensorFiles> {
        let Self { format, files, mut found } = self;
        let quantized = take_quantized(&mut found, &files)
            .map_err(|(code, what)| EngineError::new(code, format!("{}: {what}", folder.display())))?;
        let mut tensors = BTreeMap::new();
        for (name, QuantizedMatrix { stored, shape, codes, scales }) in quantized {
            let place = Place { file: codes.file, stored, shape, window: codes.window, scales: Some(scales) };
            tensors.insert(name, place);
        }
        for (name, (file, FileTensor { element, shape, window })) in found {
            let stored = match element {
                ElementType::F32 => StoredType::F32,
                ElementType::F16 => StoredType::F16,
                ElementType::BF16 => StoredType::BF16,
                other => {
                    let path = files[file].path.display();
                    let message = format!("{path}: tensor `{name}` has type {other}; supported: F32, F16, BF16");
                    return Err(EngineError::new(ErrorCode::ModelUnsupported, message));
                }
            };
            tensors.insert(name, Place { file, stored, shape, window, scales: None });
        }
        Ok(TensorFiles { format: format.name, files, tensors })
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
