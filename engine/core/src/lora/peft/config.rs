//! `adapter_config.json`: what it must say, what may not be switched on, what is ignored.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::{AdapterMetadata, CONFIG_FILE};
use crate::error::{EngineError, ErrorCode, Result};
use crate::lora::{LoraTargets, ModuleNames};

/// Larger files than this are no adapter configuration.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
const MAX_RANK: u64 = 1 << 16;

/// Settings that change what an adapter computes. Each must be absent, null, false or empty.
const UNSUPPORTED: [&str; 14] = [
    "alora_invocation_tokens",
    "arrow_config",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
];

/// Settings of how an adapter was made or where it came from: they change nothing that it computes.
const IGNORED: [&str; 16] = [
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_ga_config",
    "luthier",
    "megatron_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
];

/// Settings that are read.
const READ: [&str; 13] = [
    "alpha_pattern",
    "bias",
    "exclude_modules",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "use_rslora",
];

/// Initialisations that also change the base model's weights, so that the adapter does not fit the original ones.
const BASE_CHANGING_INIT: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

/// The settings that the engine uses.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PeftConfig {
    pub r: usize,
    pub lora_alpha: f64,
    pub lora_dropout: f64,
    pub use_rslora: bool,
    pub targets: LoraTargets,
    /// Whether the file names its target modules; if not, the tensors say which there are.
    pub names_targets: bool,
    /// As earlier versions wrote it.
    pub metadata: Option<AdapterMetadata>,
}

/// Reads and checks the folder's settings.
pub(super) fn read_config(folder: &Path) -> Result<PeftConfig> {
    let path = folder.join(CONFIG_FILE);
    let object = read_object(folder, &path)?;
    let settings = Settings { path: &path, object: &object };
    settings.refuse_unsupported()?;
    let r = settings.rank("r", settings.get("r"))?;
    let lora_alpha = settings.alpha("lora_alpha", settings.get("lora_alpha"))?;
    let lora_dropout = settings.get("lora_dropout").map_or(Some(0.0), Value::as_f64);
    let lora_dropout = lora_dropout.filter(|share| (0.0..=1.0).contains(share));
    let lora_dropout = lora_dropout.ok_or_else(|| settings.wrong("lora_dropout", "a number from 0 to 1"))?;
    let use_rslora = settings.get("use_rslora").map_or(Some(false), Value::as_bool);
    let use_rslora = use_rslora.ok_or_else(|| settings.wrong("use_rslora", "true or false"))?;
    let target_modules = settings.names("target_modules", true)?;
    Ok(PeftConfig {
        r,
        lora_alpha,
        lora_dropout,
        use_rslora,
        names_targets: target_modules.is_some(),
        targets: LoraTargets {
            target_modules: target_modules.unwrap_or(ModuleNames::AllLinear),
            exclude_modules: settings.names("exclude_modules", false)?,
            layers_to_transform: settings.layers()?,
            layers_pattern: settings.texts("layers_pattern")?,
            rank_pattern: settings.pattern("rank_pattern", Settings::rank)?,
            alpha_pattern: settings.pattern("alpha_pattern", Settings::alpha)?,
        },
        metadata: object.get("luthier").and_then(read_metadata),
    })
}

fn read_object(folder: &Path, path: &Path) -> Result<Map<String, Value>> {
    let corrupt = |what: String| EngineError::new(ErrorCode::AdapterCorrupt, format!("{}: {what}", path.display()));
    let length = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(cause) if matches!(cause.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            let message = format!("{} has no {CONFIG_FILE}; expected a PEFT adapter folder", folder.display());
            return Err(EngineError::new(ErrorCode::AdapterNotFound, message));
        }
        Err(cause) => return Err(EngineError::io("look at", path, &cause)),
    };
    if length > MAX_CONFIG_BYTES {
        return Err(corrupt(format!("{length} bytes are too many; expected at most {MAX_CONFIG_BYTES}")));
    }
    let text = std::fs::read(path).map_err(|cause| EngineError::io("read", path, &cause))?;
    serde_json::from_slice(&text).map_err(|cause| corrupt(format!("not a JSON object: {cause}")))
}

/// The settings of one file, with errors that name it.
struct Settings<'a> {
    path: &'a Path,
    object: &'a Map<String, Value>,
}

impl Settings<'_> {
    /// A setting that is there and not null.
    fn get(&self, name: &str) -> Option<&Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    fn unsupported(&self, what: String) -> EngineError {
        EngineError::new(ErrorCode::AdapterUnsupported, format!("{}: {what}", self.path.display()))
    }

    fn wrong(&self, name: &str, expected: &str) -> EngineError {
        self.wrong_value(name, self.object.get(name), expected)
    }

    fn wrong_value(&self, name: &str, found: Option<&Value>, expected: &str) -> EngineError {
        let found = found.map_or_else(|| "missing".to_owned(), Value::to_string);
        let message = format!("{}: `{name}` is {found}; expected {expected}", self.path.display());
        EngineError::new(ErrorCode::AdapterCorrupt, message)
    }

    fn refuse_unsupported(&self) -> Result<()> {
        match self.object.get("peft_type").and_then(Value::as_str) {
            Some("LORA") => {}
            Some(other) => {
                return Err(self.unsupported(format!("peft_type `{other}` is not supported; supported: LORA")));
            }
            None => return Err(self.wrong("peft_type", "\"LORA\"")),
        }
        let is_on = |name: &&str| self.object.get(*name).is_some_and(is_switched_on);
        if let Some(name) = UNSUPPORTED.into_iter().find(|name| is_on(name)) {
            let found = &self.object[name];
            return Err(self.unsupported(format!("`{name}` is {found}; this variant of LoRA is not supported")));
        }
        let known = |name: &str| UNSUPPORTED.iter().chain(&IGNORED).chain(&READ).any(|known| *known == name);
        if let Some((name, found)) = self.object.iter().find(|(name, found)| !known(name) && is_switched_on(found)) {
            return Err(self.unsupported(format!(
                "`{name}` is {found}, a setting that is not known here and may change what the adapter computes; remove it if it does not"
            )));
        }
        if let Some(bias) = self.get("bias").filter(|bias| *bias != "none") {
            return Err(self.unsupported(format!("`bias` is {bias}; supported: \"none\"")));
        }
        match self.get("init_lora_weights").and_then(Value::as_str) {
            Some(init) if BASE_CHANGING_INIT.iter().any(|name| init.to_ascii_lowercase().starts_with(name)) => {
                Err(self.unsupported(format!(
                    "`init_lora_weights` is \"{init}\", which changes the base model too; convert the adapter to plain LoRA first"
                )))
            }
            _ => Ok(()),
        }
    }

    fn rank(&self, name: &str, value: Option<&Value>) -> Result<usize> {
        let r = value.and_then(Value::as_u64).filter(|r| (1..=MAX_RANK).contains(r));
        r.map(|r| r as usize).ok_or_else(|| self.wrong_value(name, value, "a whole number from 1"))
    }

    fn alpha(&self, name: &str, value: Option<&Value>) -> Result<f64> {
        let alpha = value.and_then(Value::as_f64).filter(|alpha| alpha.is_finite());
        alpha.ok_or_else(|| self.wrong_value(name, value, "a number"))
    }

    /// One text or a list of them; absent, null or empty: none.
    fn texts(&self, name: &str) -> Result<Vec<String>> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let texts = match self.get(name) {
            None => Some(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(text).collect(),
            Some(one) => text(one).map(|text| if text.is_empty() { Vec::new() } else { vec![text] }),
        };
        texts.ok_or_else(|| self.wrong(name, "a text or a list of texts"))
    }

    /// A list of names, or one regular expression. `shorthand`: whether `all-linear` is a word of its own.
    fn names(&self, name: &str, shorthand: bool) -> Result<Option<ModuleNames>> {
        match self.get(name) {
            Some(Value::String(text)) if shorthand && text.eq_ignore_ascii_case("all-linear") => {
                Ok(Some(ModuleNames::AllLinear))
            }
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(ModuleNames::Pattern(text.clone()))),
            _ => Ok(Some(self.texts(name)?).filter(|names| !names.is_empty()).map(ModuleNames::Names)),
        }
    }

    fn layers(&self) -> Result<Option<Vec<usize>>> {
        let name = "layers_to_transform";
        let layer = |value: &Value| value.as_u64().map(|layer| layer as usize);
        let layers = match self.get(name) {
            None => return Ok(None),
            Some(Value::Array(list)) => list.iter().map(layer).collect(),
            Some(one) => layer(one).map(|layer| vec![layer]),
        };
        layers.map(Some).ok_or_else(|| self.wrong(name, "a block's number or a list of them"))
    }

    /// An object of values by module pattern.
    fn pattern<T>(
        &self,
        name: &str,
        read: impl Fn(&Self, &str, Option<&Value>) -> Result<T>,
    ) -> Result<BTreeMap<String, T>> {
        match self.get(name) {
            None => Ok(BTreeMap::new()),
            Some(Value::Object(entries)) => entries
                .iter()
                .map(|(key, value)| Ok((key.clone(), read(self, &format!("{name}.{key}"), Some(value))?)))
                .collect(),
            Some(_) => Err(self.wrong(name, "an object of numbers by module")),
        }
    }
}

fn is_switched_on(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(_) => true,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// The `luthier` object.
fn read_metadata(value: &Value) -> Option<AdapterMetadata> {
    AdapterMetadata::from_texts(|name| value.get(name)?.as_str().map(str::to_owned))
}
