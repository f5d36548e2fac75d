//! safetensors files, mapped: one file, or the shards that an index names.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::fields::read_json;
use crate::error::{EngineError, ErrorCode, Result};
use crate::load::mapped::MappedFile;
use crate::tensor::StoredType;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

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
    pub files: Vec<MappedFile>,
    pub tensors: BTreeMap<String, Place>,
}

impl TensorFiles {
    /// Maps the folder's weights. `MODEL_NOT_FOUND` without any; `MODEL_CORRUPT` where a shard is missing, malformed or contradicts the index.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut all = Self { files: Vec::new(), tensors: BTreeMap::new() };
        if folder.join(SINGLE).exists() {
            all.add(&folder.join(SINGLE))?;
            return Ok(all);
        }
        let index_path = folder.join(INDEX);
        let corrupt =
            |what: String| EngineError::new(ErrorCode::ModelCorrupt, format!("{}: {what}", index_path.display()));
        let index = read_json(&index_path)?.ok_or_else(|| {
            let message =
                format!("{} has neither {SINGLE} nor {INDEX}; only safetensors weights are read", folder.display());
            EngineError::new(ErrorCode::ModelNotFound, message)
        })?;
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
            all.add(&path)?;
            if let Some(absent) = tensors.into_iter().find(|tensor| !all.tensors.contains_key(*tensor)) {
                return Err(corrupt(format!("`{absent}` should be in {shard}, which does not have it")));
            }
        }
        Ok(all)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let file = MappedFile::open(path)?;
        let corrupt = |what: String| EngineError::new(ErrorCode::ModelCorrupt, format!("{}: {what}", path.display()));
        let header = SafeTensors::deserialize(&file.map)
            .map_err(|error| corrupt(format!("not a complete safetensors file: {error}; is it a partial download?")))?;
        let base = file.map.as_ptr() as usize;
        for (name, view) in header.iter() {
            let stored = match view.dtype() {
                Dtype::F32 => StoredType::F32,
                Dtype::F16 => StoredType::F16,
                Dtype::BF16 => StoredType::BF16,
                other => {
                    let message =
                        format!("{}: tensor `{name}` has type {other:?}; supported: F32, F16, BF16", path.display());
                    return Err(EngineError::new(ErrorCode::ModelUnsupported, message));
                }
            };
            let start = view.data().as_ptr() as usize - base;
            let window = start..start + view.data().len();
            let place = Place { file: self.files.len(), stored, shape: view.shape().to_vec(), window };
            if let Some(before) = self.tensors.insert(name.to_owned(), place) {
                return Err(corrupt(format!("tensor `{name}` is also in {}", self.files[before.file].path.display())));
            }
        }
        self.files.push(file);
        Ok(())
    }
}

/// Whether a shard's name stays inside its folder.
fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
}
