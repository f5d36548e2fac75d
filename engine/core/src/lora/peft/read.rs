//! Reading an adapter folder, with or without the model it belongs to.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use super::config::{PeftConfig, read_config};
use super::fused::{FileModule, PeftNames};
use super::{AdapterInfo, LoraMatrices, PeftAdapter, WEIGHTS_FILE, target_modules};
use crate::config::ModelConfig;
use crate::error::{EngineError, ErrorCode, Result};
use crate::load::{expected_tensors, hex};

const MAX_WEIGHTS_BYTES: u64 = 16 << 30;
const MAX_TENSORS: usize = 20_000;
const PREFIX: &str = "base_model.model.";

/// Reads and checks an adapter's files without a base model.
///
/// Errors: `ADAPTER_NOT_FOUND`, `ADAPTER_CORRUPT`, `ADAPTER_UNSUPPORTED` (a variant of LoRA, by name), `IO`.
pub fn read_adapter_info(folder: &Path) -> Result<AdapterInfo> {
    Ok(read_files(folder)?.info())
}

/// Reads an adapter for a model and checks that it belongs to it: by the hash of the base where the adapter carries one, and always by names
/// and shapes.
///
/// Errors: as [`read_adapter_info`], and `ADAPTER_MISMATCH` naming the tensor with what was expected and found.
pub fn read_adapter(folder: &Path, config: &ModelConfig, base_hash: &str) -> Result<(PeftAdapter, AdapterInfo)> {
    let files = read_files(folder)?;
    let info = files.info();
    let mismatch = |what: String| EngineError::new(ErrorCode::AdapterMismatch, format!("{}: {what}", folder.display()));
    if let Some(metadata) = info.metadata.as_ref().filter(|metadata| metadata.base_model_hash != base_hash) {
        return Err(mismatch(format!(
            "the adapter was trained on `{}` with content hash {}; this model's hash is {base_hash}",
            metadata.base_model_name, metadata.base_model_hash
        )));
    }
    let adapter = files.into_adapter(PeftNames::new(config)).map_err(|(path, what)| {
        let message = format!("{}: `{path}`: {what}", folder.display());
        EngineError::new(ErrorCode::AdapterUnsupported, message)
    })?;
    let expected = expected_tensors(config);
    for (path, matrices) in &adapter.modules {
        if !path.starts_with("model.layers.") {
            let message =
                format!("{}: `{path}` has LoRA matrices; only linear layers of blocks are supported", folder.display());
            return Err(EngineError::new(ErrorCode::AdapterUnsupported, message));
        }
        let shape = expected.get(&format!("{path}.weight")).filter(|shape| shape.len() == 2);
        let [out_features, in_features] = shape.map(|shape| [shape[0], shape[1]]).ok_or_else(|| {
            mismatch(format!(
                "the adapter has matrices for `{path}`; the model has no such linear layer ({} blocks)",
                config.num_hidden_layers
            ))
        })?;
        for (matrix, found, wanted) in [
            ("lora_A", [adapter.r, matrices.in_features], [adapter.r, in_features]),
            ("lora_B", [matrices.out_features, adapter.r], [out_features, adapter.r]),
        ] {
            if found != wanted {
                return Err(mismatch(format!(
                    "`{PREFIX}{path}.{matrix}.weight`: expected {wanted:?}, found {found:?}"
                )));
            }
        }
    }
    Ok((adapter, info))
}

/// An adapter under its files' names.
struct AdapterFiles {
    config: PeftConfig,
    modules: BTreeMap<String, FileModule>,
    sha256: String,
}

impl AdapterFiles {
    fn info(&self) -> AdapterInfo {
        let numbers = |module: &FileModule| (module.matrices.a.len() + module.matrices.b.len()) as u64;
        AdapterInfo {
            r: self.config.r,
            lora_alpha: self.config.lora_alpha,
            use_rslora: self.config.use_rslora,
            target_modules: target_modules(self.modules.keys().map(String::as_str)),
            parameter_count: self.modules.values().map(numbers).sum(),
            sha256: self.sha256.clone(),
            metadata: self.config.metadata.clone(),
        }
    }

    /// Under Llama's names. The error: a module of the files, and what is wrong with it.
    fn into_adapter(self, names: PeftNames) -> std::result::Result<PeftAdapter, (String, String)> {
        let PeftConfig { r, lora_alpha, lora_dropout, use_rslora, metadata, .. } = self.config;
        let mut modules = BTreeMap::new();
        for (path, module) in self.modules {
            let parts = names.split(&path, module, r).map_err(|what| (path.clone(), what))?;
            for (part, matrices) in parts {
                if modules.insert(part.clone(), matrices).is_some() {
                    return Err((path, format!("`{part}` has other matrices, too")));
                }
            }
        }
        Ok(PeftAdapter { r, lora_alpha, lora_dropout, use_rslora, modules, names, metadata })
    }
}

fn read_files(folder: &Path) -> Result<AdapterFiles> {
    if !folder.is_dir() {
        let message = format!("no adapter at {}: expected a folder with adapter_config.json", folder.display());
        return Err(EngineError::new(ErrorCode::AdapterNotFound, message));
    }
    let config = read_config(folder)?;
    let path = folder.join(WEIGHTS_FILE);
    let bytes = read_weights_file(folder, &path)?;
    let corrupt = |what: String| EngineError::new(ErrorCode::AdapterCorrupt, format!("{}: {what}", path.display()));
    let tensors = SafeTensors::deserialize(&bytes)
        .map_err(|cause| corrupt(format!("not a complete safetensors file: {cause}; was it copied whole?")))?;
    if tensors.len() > MAX_TENSORS {
        return Err(corrupt(format!("{} tensors are too many; expected at most {MAX_TENSORS}", tensors.len())));
    }
    let modules = pair_up(&path, &config, &tensors)?;
    Ok(AdapterFiles { config, modules, sha256: hex(&Sha256::digest(&bytes)) })
}

fn read_weights_file(folder: &Path, path: &Path) -> Result<Vec<u8>> {
    let not_found = |what: String| Err(EngineError::new(ErrorCode::AdapterNotFound, what));
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_WEIGHTS_BYTES => {
            let message = format!("{}: {} bytes are too many for an adapter", path.display(), metadata.len());
            Err(EngineError::new(ErrorCode::AdapterCorrupt, message))
        }
        Ok(_) => std::fs::read(path).map_err(|cause| EngineError::io("read", path, &cause)),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound && folder.join("adapter_model.bin").exists() => {
            let message = format!("{} has adapter_model.bin only; save the adapter as safetensors", folder.display());
            Err(EngineError::new(ErrorCode::AdapterUnsupported, message))
        }
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            not_found(format!("{} has no {WEIGHTS_FILE}; expected a PEFT adapter folder", folder.display()))
        }
        Err(cause) => Err(EngineError::io("look at", path, &cause)),
    }
}

/// Which matrix a tensor is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    A,
    B,
}

/// Splits `base_model.model.<module>.lora_A[.<adapter>].weight`.
fn parse_name(name: &str) -> Option<(&str, Side)> {
    let rest = name.strip_prefix(PREFIX)?.strip_suffix(".weight")?;
    [("lora_A", Side::A), ("lora_B", Side::B)].into_iter().find_map(|(label, side)| {
        let (module, tail) = rest.split_once(&format!(".{label}"))?;
        // Older files keep the adapter's name: `lora_A.default`.
        let plain = tail.is_empty() || (tail.starts_with('.') && !tail[1..].contains('.'));
        (plain && !module.is_empty()).then_some((module, side))
    })
}

fn pair_up(path: &Path, config: &PeftConfig, tensors: &SafeTensors<'_>) -> Result<BTreeMap<String, FileModule>> {
    let error = |code, what: String| EngineError::new(code, format!("{}: {what}", path.display()));
    let corrupt = |what: String| error(ErrorCode::AdapterCorrupt, what);
    let mut sides: BTreeMap<(String, Side), (String, TensorView<'_>)> = BTreeMap::new();
    for (name, view) in tensors.iter() {
        let (module, side) = parse_name(name).ok_or_else(|| {
            let what = format!(
                "tensor `{name}` is no `{PREFIX}….lora_A.weight` or `….lora_B.weight`; only plain LoRA is supported"
            );
            error(ErrorCode::AdapterUnsupported, what)
        })?;
        if let Some((other, _)) = sides.insert((module.to_owned(), side), (name.to_owned(), view)) {
            return Err(corrupt(format!("tensors `{other}` and `{name}` are the same matrix")));
        }
    }
    if sides.is_empty() {
        return Err(corrupt("no LoRA matrix is in it".to_owned()));
    }
    let mut modules = BTreeMap::new();
    let names: Vec<String> = sides.keys().map(|(module, _)| module.clone()).collect();
    for module in names {
        if modules.contains_key(&module) {
            continue;
        }
        let take = |side: Side, label: &str| -> Result<(Vec<usize>, Vec<f32>)> {
            let (name, view) = sides.get(&(module.clone(), side)).ok_or_else(|| {
                corrupt(format!("`{PREFIX}{module}.{label}.weight` is missing; its counterpart is there"))
            })?;
            if view.shape().len() != 2 {
                return Err(corrupt(format!("`{name}` has the shape {:?}; expected a matrix", view.shape())));
            }
            let values = floats(view).ok_or_else(|| {
                error(
                    ErrorCode::AdapterUnsupported,
                    format!("`{name}` has type {:?}; supported: F32, F16, BF16", view.dtype()),
                )
            })?;
            match values.iter().position(|value| !value.is_finite()) {
                Some(index) => {
                    Err(corrupt(format!("`{name}` holds {} at index {index}; expected finite numbers", values[index])))
                }
                None => Ok((view.shape().to_vec(), values)),
            }
        };
        let ((a_shape, a), (b_shape, b)) = (take(Side::A, "lora_A")?, take(Side::B, "lora_B")?);
        let other = config.ranks.iter().find(|(name, _)| {
            module.strip_suffix(name.as_str()).is_some_and(|before| before.is_empty() || before.ends_with('.'))
        });
        let rank = other.map_or(config.r, |(_, rank)| *rank);
        if a_shape[0] != rank || b_shape[1] != rank {
            return Err(corrupt(format!(
                "`{module}`: lora_A is {a_shape:?} and lora_B {b_shape:?}; expected [r, in] and [out, r] with r = {rank} of the configuration"
            )));
        }
        let (in_features, out_features) = (a_shape[1], b_shape[0]);
        modules.insert(module, FileModule { rank, matrices: LoraMatrices { in_features, out_features, a, b } });
    }
    Ok(modules)
}

fn floats(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let data = view.data();
    let pairs = || data.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
    match view.dtype() {
        Dtype::F32 => {
            Some(data.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect())
        }
        Dtype::F16 => Some(pairs().map(|pair| f16::from_le_bytes(pair).to_f32()).collect()),
        Dtype::BF16 => Some(pairs().map(|pair| bf16::from_le_bytes(pair).to_f32()).collect()),
        _ => None,
    }
}
