//! Reading an adapter folder, with or without the model it belongs to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

use super::config::{PeftConfig, read_config};
use super::fused::PeftNames;
use super::{
    AdapterInfo, AdapterMetadata, CONFIG_FILE, LoraMatrices, METADATA_PREFIX, OLD_WEIGHTS_FILE, PeftAdapter,
    RANKS_PREFIX, WEIGHTS_FILE, target_modules,
};
use crate::config::ModelConfig;
use crate::error::{EngineError, ErrorCode, Result};
use crate::load::{ElementType, FileTensor, NamedTensors, expected_tensors, hex, read_tensors};
use crate::lora::config::lora_scale;
use crate::lora::{ModuleNames, TargetRules};

const MAX_WEIGHTS_BYTES: u64 = 16 << 30;
const MAX_TENSORS: usize = 20_000;
const PREFIX: &str = "base_model.model.";
/// Begins the paths of what a block has.
const BLOCKS: &str = "model.layers.";

/// Reads and checks an adapter's files without a base model.
///
/// Errors: `ADAPTER_NOT_FOUND`, `ADAPTER_CORRUPT`, `ADAPTER_UNSUPPORTED` (a variant of LoRA, by name), `IO`.
pub fn read_adapter_info(folder: &Path) -> Result<AdapterInfo> {
    Ok(read_files(folder)?.info())
}

/// Reads an adapter for a model and checks that it belongs to it: by the hash of the base where the adapter carries one, and always by names
/// and shapes. `base_hash`: none where another base than the one it was trained on is accepted.
///
/// Errors: as [`read_adapter_info`], and `ADAPTER_MISMATCH` naming the tensor with what was expected and found.
pub fn read_adapter(
    folder: &Path,
    config: &ModelConfig,
    base_hash: Option<&str>,
) -> Result<(PeftAdapter, AdapterInfo)> {
    let files = read_files(folder)?;
    let info = files.info();
    let mismatch = |what: String| EngineError::new(ErrorCode::AdapterMismatch, format!("{}: {what}", folder.display()));
    if let (Some(metadata), Some(base_hash)) = (&info.metadata, base_hash)
        && metadata.base_model_hash != base_hash
    {
        return Err(mismatch(format!(
            "the adapter was trained on `{}` with content hash {}; this model's hash is {base_hash}",
            metadata.base_model_name, metadata.base_model_hash
        )));
    }
    let names = PeftNames::new(config);
    let expected = expected_tensors(config);
    let stored = names.stored(&expected);
    for (path, matrices) in &files.modules {
        if !names.in_module(path).iter().all(|part| part.starts_with(BLOCKS)) {
            let message =
                format!("{}: `{path}` has LoRA matrices; only linear layers of blocks are supported", folder.display());
            return Err(EngineError::new(ErrorCode::AdapterUnsupported, message));
        }
        let name = format!("{path}.weight");
        // By the files' names, or by Llama's for a part of a fused layer alone.
        let shape = stored.get(&name).or_else(|| expected.get(&name)).filter(|shape| shape.len() == 2);
        let [out_features, in_features] = shape.map(|shape| [shape[0], shape[1]]).ok_or_else(|| {
            mismatch(format!(
                "the adapter has matrices for `{path}`; the model has no such linear layer ({} blocks)",
                config.num_hidden_layers
            ))
        })?;
        for (matrix, found, wanted) in [
            ("lora_A", [matrices.r, matrices.in_features], [matrices.r, in_features]),
            ("lora_B", [matrices.out_features, matrices.r], [out_features, matrices.r]),
        ] {
            if found != wanted {
                return Err(mismatch(format!(
                    "`{PREFIX}{path}.{matrix}.weight`: expected {wanted:?}, found {found:?}"
                )));
            }
        }
    }
    let (names_targets, weights) = (files.config.names_targets, files.path.clone());
    let adapter = files.into_adapter(names).map_err(|path| {
        let message = format!("{}: `{path}` has matrices of its own and as a part of a fused layer", folder.display());
        EngineError::new(ErrorCode::AdapterCorrupt, message)
    })?;
    if names_targets {
        refuse_missing(&weights, &adapter, &stored)?;
    }
    Ok((adapter, info))
}

/// PEFT would leave such a module as it was initialised, without a word: B = 0, as if it had learned nothing. `stored`: tensors by the names of
/// files; `weights`: the file with the matrices.
fn refuse_missing(weights: &Path, adapter: &PeftAdapter, stored: &BTreeMap<String, Vec<usize>>) -> Result<()> {
    let rules = TargetRules::new(&adapter.targets)?;
    for (path, shape) in stored.iter().filter_map(|(name, shape)| Some((name.strip_suffix(".weight")?, shape))) {
        let parts = adapter.names.in_module(path);
        let [out_features, in_features] = shape[..] else { continue };
        if !parts[0].starts_with(BLOCKS) || parts.iter().any(|part| adapter.modules.contains_key(part)) {
            continue;
        }
        if rules.is_target(path)? {
            let r = rules.rank(path)?.unwrap_or(adapter.r);
            let message = format!(
                "{}: {CONFIG_FILE} makes `{path}` a target, but this file lacks its matrices; expected `{PREFIX}{path}.lora_A.weight` [{r}, {in_features}] and `….lora_B.weight` [{out_features}, {r}]",
                weights.display()
            );
            return Err(EngineError::new(ErrorCode::AdapterCorrupt, message));
        }
    }
    Ok(())
}

/// An adapter under its files' names.
struct AdapterFiles {
    /// Of the file with the matrices.
    path: PathBuf,
    config: PeftConfig,
    modules: BTreeMap<String, LoraMatrices>,
    /// Of the parts of joined modules.
    ranks: BTreeMap<String, Vec<usize>>,
    metadata: Option<AdapterMetadata>,
    sha256: String,
}

impl AdapterFiles {
    fn info(&self) -> AdapterInfo {
        let numbers = |matrices: &LoraMatrices| (matrices.a.len() + matrices.b.len()) as u64;
        AdapterInfo {
            r: self.config.r,
            lora_alpha: self.config.lora_alpha,
            use_rslora: self.config.use_rslora,
            target_modules: target_modules(self.modules.keys().map(String::as_str)),
            parameter_count: self.modules.values().map(numbers).sum(),
            sha256: self.sha256.clone(),
            metadata: self.metadata.clone(),
        }
    }

    /// Under Llama's names. The error: a module that is there twice.
    fn into_adapter(self, names: PeftNames) -> std::result::Result<PeftAdapter, String> {
        let PeftConfig { r, lora_alpha, lora_dropout, use_rslora, mut targets, names_targets, .. } = self.config;
        if !names_targets {
            targets.target_modules = ModuleNames::Names(self.modules.keys().cloned().collect());
        }
        let mut modules = BTreeMap::new();
        for (path, matrices) in self.modules {
            for (part, matrices) in names.split(&path, matrices, self.ranks.get(&path).map(Vec::as_slice)) {
                if modules.insert(part.clone(), matrices).is_some() {
                    return Err(part);
                }
            }
        }
        let metadata = self.metadata;
        Ok(PeftAdapter { r, lora_alpha, targets, lora_dropout, use_rslora, modules, names, metadata })
    }
}

fn read_files(folder: &Path) -> Result<AdapterFiles> {
    if !folder.is_dir() {
        let message = format!("no adapter at {}: expected a folder with adapter_config.json", folder.display());
        return Err(EngineError::new(ErrorCode::AdapterNotFound, message));
    }
    let config = read_config(folder)?;
    let paths = [WEIGHTS_FILE, OLD_WEIGHTS_FILE].map(|name| folder.join(name));
    let [newer, older] = &paths;
    let path = if !newer.exists() && older.exists() { older } else { newer }.clone();
    let bytes = read_weights_file(folder, &path)?;
    let tensors = read_tensors(&path, &bytes).map_err(|error| match error.code {
        ErrorCode::ModelCorrupt => EngineError::new(ErrorCode::AdapterCorrupt, error.message),
        ErrorCode::ModelUnsupported => EngineError::new(ErrorCode::AdapterUnsupported, error.message),
        _ => error,
    })?;
    if tensors.len() > MAX_TENSORS {
        let message =
            format!("{}: {} tensors are too many; expected at most {MAX_TENSORS}", path.display(), tensors.len());
        return Err(EngineError::new(ErrorCode::AdapterCorrupt, message));
    }
    let modules = pair_up(&path, &config, &tensors, &bytes)?;
    let metadata = read_metadata(&bytes).or_else(|| config.metadata.clone());
    let (ranks, sha256) = (read_ranks(&bytes), hex(&Sha256::digest(&bytes)));
    Ok(AdapterFiles { path, config, modules, ranks, metadata, sha256 })
}

/// What the metadata of a safetensors file say of joined modules. What cannot be read says nothing: the matrices are whole without it.
fn read_ranks(bytes: &[u8]) -> BTreeMap<String, Vec<usize>> {
    let Ok((_, header)) = SafeTensors::read_metadata(bytes) else { return BTreeMap::new() };
    let ranks = |(name, text): (&String, &String)| {
        let ranks = text.split(',').map(|rank| rank.parse().ok()).collect::<Option<_>>()?;
        Some((name.strip_prefix(RANKS_PREFIX)?.to_owned(), ranks))
    };
    header.metadata().iter().flatten().filter_map(ranks).collect()
}

/// What Luthier adds to the metadata of a safetensors file.
fn read_metadata(bytes: &[u8]) -> Option<AdapterMetadata> {
    let (_, header) = SafeTensors::read_metadata(bytes).ok()?;
    let about = header.metadata().as_ref()?;
    AdapterMetadata::from_texts(|name| about.get(&format!("{METADATA_PREFIX}{name}")).cloned())
}

fn read_weights_file(folder: &Path, path: &Path) -> Result<Vec<u8>> {
    let not_found = |what: String| Err(EngineError::new(ErrorCode::AdapterNotFound, what));
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_WEIGHTS_BYTES => {
            let message = format!("{}: {} bytes are too many for an adapter", path.display(), metadata.len());
            Err(EngineError::new(ErrorCode::AdapterCorrupt, message))
        }
        Ok(_) => std::fs::read(path).map_err(|cause| EngineError::io("read", path, &cause)),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => not_found(format!(
            "{} has neither {WEIGHTS_FILE} nor {OLD_WEIGHTS_FILE}; expected a PEFT adapter folder",
            folder.display()
        )),
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

fn pair_up(
    path: &Path,
    config: &PeftConfig,
    tensors: &NamedTensors,
    bytes: &[u8],
) -> Result<BTreeMap<String, LoraMatrices>> {
    let error = |code, what: String| EngineError::new(code, format!("{}: {what}", path.display()));
    let corrupt = |what: String| error(ErrorCode::AdapterCorrupt, what);
    let unreadable = |cause: EngineError| error(ErrorCode::AdapterUnsupported, cause.message);
    let rules = TargetRules::new(&config.targets).map_err(&unreadable)?;
    let mut sides: BTreeMap<(String, Side), (&String, &FileTensor)> = BTreeMap::new();
    for (name, tensor) in tensors {
        let (module, side) = parse_name(name).ok_or_else(|| {
            let what = format!(
                "tensor `{name}` is no `{PREFIX}….lora_A.weight` or `….lora_B.weight`; only plain LoRA is supported"
            );
            error(ErrorCode::AdapterUnsupported, what)
        })?;
        if let Some((other, _)) = sides.insert((module.to_owned(), side), (name, tensor)) {
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
            let (name, tensor) = sides.get(&(module.clone(), side)).ok_or_else(|| {
                corrupt(format!("`{PREFIX}{module}.{label}.weight` is missing; its counterpart is there"))
            })?;
            let (element, shape) = (&tensor.element, &tensor.shape);
            if shape.len() != 2 {
                return Err(corrupt(format!("`{name}` has the shape {shape:?}; expected a matrix")));
            }
            let values = floats(element, &bytes[tensor.window.clone()]).ok_or_else(|| {
                error(ErrorCode::AdapterUnsupported, format!("`{name}` has type {element}; supported: F32, F16, BF16"))
            })?;
            match values.iter().position(|value| !value.is_finite()) {
                Some(index) => {
                    Err(corrupt(format!("`{name}` holds {} at index {index}; expected finite numbers", values[index])))
                }
                None => Ok((shape.clone(), values)),
            }
        };
        let ((a_shape, a), (b_shape, b)) = (take(Side::A, "lora_A")?, take(Side::B, "lora_B")?);
        let (in_features, out_features) = (a_shape[1], b_shape[0]);
        if config.names_targets && !rules.is_target(&module).map_err(&unreadable)? {
            let (name, _) = &sides[&(module.clone(), Side::A)];
            return Err(corrupt(format!(
                "`{name}` {a_shape:?} is surplus: {CONFIG_FILE} does not make `{module}` a target; expected matrices of targets only"
            )));
        }
        let r = rules.rank(&module).map_err(&unreadable)?.unwrap_or(config.r);
        let alpha = rules.alpha(&module).map_err(&unreadable)?.unwrap_or(config.lora_alpha);
        for (side, shape, expected) in [(Side::A, &a_shape, [r, in_features]), (Side::B, &b_shape, [out_features, r])] {
            if shape[..] != expected {
                let (name, _) = &sides[&(module.clone(), side)];
                return Err(corrupt(format!(
                    "`{name}`: expected {expected:?} with r = {r} of {CONFIG_FILE}, found {shape:?}"
                )));
            }
        }
        let scale = lora_scale(r, alpha, config.use_rslora);
        modules.insert(module, LoraMatrices { r, scale, in_features, out_features, a, b });
    }
    Ok(modules)
}

fn floats(element: &ElementType, data: &[u8]) -> Option<Vec<f32>> {
    let pairs = || data.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
    match element {
        ElementType::F32 => {
            Some(data.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect())
        }
        ElementType::F16 => Some(pairs().map(|pair| f16::from_le_bytes(pair).to_f32()).collect()),
        ElementType::BF16 => Some(pairs().map(|pair| bf16::from_le_bytes(pair).to_f32()).collect()),
        _ => None,
    }
}
