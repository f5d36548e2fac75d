//! `adapter_config.json`: what it must say, what may not be switched on, what is ignored.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::fused::FileModule;
use super::{AdapterMetadata, CONFIG_FILE, PeftAdapter, target_modules};
use crate::error::{EngineError, ErrorCode, Result};

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

/// Initialisations that also change the base model's weights, so that the adapter does not fit the original ones.
const BASE_CHANGING_INIT: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

/// The settings that the engine uses.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PeftConfig {
    pub r: usize,
    pub lora_alpha: f64,
    pub lora_dropout: f64,
    pub use_rslora: bool,
    /// Ranks of modules that have others than `r`, by the ends of their paths.
    pub ranks: BTreeMap<String, usize>,
    pub metadata: Option<AdapterMetadata>,
}

/// Reads and checks the folder's settings. `target_modules` is not looked at: the tensors say which modules there are.
pub(super) fn read_config(folder: &Path) -> Result<PeftConfig> {
    let path = folder.join(CONFIG_FILE);
    let error = |code, what: String| EngineError::new(code, format!("{}: {what}", path.display()));
    let corrupt = |what: String| error(ErrorCode::AdapterCorrupt, what);
    let unsupported = |what: String| error(ErrorCode::AdapterUnsupported, what);
    let length = match std::fs::metadata(&path) {
        Ok(metadata) => metadata.len(),
        Err(cause) if matches!(cause.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            let message = format!("{} has no {CONFIG_FILE}; expected a PEFT adapter folder", folder.display());
            return Err(EngineError::new(ErrorCode::AdapterNotFound, message));
        }
        Err(cause) => return Err(EngineError::io("look at", &path, &cause)),
    };
    if length > MAX_CONFIG_BYTES {
        return Err(corrupt(format!("{length} bytes are too many; expected at most {MAX_CONFIG_BYTES}")));
    }
    let text = std::fs::read(&path).map_err(|cause| EngineError::io("read", &path, &cause))?;
    let object: Map<String, Value> =
        serde_json::from_slice(&text).map_err(|cause| corrupt(format!("not a JSON object: {cause}")))?;

    match object.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => {}
        Some(other) => return Err(unsupported(format!("peft_type `{other}` is not supported; supported: LORA"))),
        None => return Err(corrupt("`peft_type` is missing; expected \"LORA\"".to_owned())),
    }
    if let Some(name) = UNSUPPORTED.into_iter().find(|name| object.get(*name).is_some_and(is_switched_on)) {
        return Err(unsupported(format!("`{name}` is {}; this variant of LoRA is not supported", object[name])));
    }
    if let Some(bias) = object.get("bias").filter(|bias| !bias.is_null() && *bias != "none") {
        return Err(unsupported(format!("`bias` is {bias}; supported: \"none\"")));
    }
    if let Some(init) = object.get("init_lora_weights").and_then(Value::as_str)
        && BASE_CHANGING_INIT.iter().any(|name| init.to_ascii_lowercase().starts_with(name))
    {
        return Err(unsupported(format!(
            "`init_lora_weights` is \"{init}\", which changes the base model too; convert the adapter to plain LoRA first"
        )));
    }
    let r = object.get("r").and_then(Value::as_u64).filter(|r| (1..=MAX_RANK).contains(r));
    let r = r.ok_or_else(|| corrupt(format!("`r` is {}; expected a whole number from 1", shown(&object, "r"))))?;
    let lora_alpha = object.get("lora_alpha").and_then(Value::as_f64).filter(|alpha| alpha.is_finite());
    let lora_alpha = lora_alpha
        .ok_or_else(|| corrupt(format!("`lora_alpha` is {}; expected a number", shown(&object, "lora_alpha"))))?;
    let lora_dropout = match object.get("lora_dropout") {
        None | Some(Value::Null) => Some(0.0),
        Some(value) => value.as_f64().filter(|share| (0.0..=1.0).contains(share)),
    };
    let lora_dropout = lora_dropout.ok_or_else(|| {
        corrupt(format!("`lora_dropout` is {}; expected a number from 0 to 1", shown(&object, "lora_dropout")))
    })?;
    let use_rslora = object.get("use_rslora").and_then(Value::as_bool).unwrap_or(false);
    let [ranks, alphas] = ["rank_pattern", "alpha_pattern"].map(|name| pattern(&object, name));
    let (ranks, alphas) = (ranks.map_err(corrupt)?, alphas.map_err(corrupt)?);
    // One scale for all: a module of another rank must have an alpha that goes with it.
    let scale = |r: f64, alpha: f64| alpha / if use_rslora { r.sqrt() } else { r };
    for name in ranks.keys().chain(alphas.keys()) {
        let rank = ranks.get(name).copied().unwrap_or(r as f64);
        let found = scale(rank, alphas.get(name).copied().unwrap_or(lora_alpha));
        let expected = scale(r as f64, lora_alpha);
        if rank.fract() != 0.0 || !(1.0..=MAX_RANK as f64).contains(&rank) {
            return Err(corrupt(format!(
                "`rank_pattern` gives `{name}` the rank {rank}; expected a whole number from 1"
            )));
        }
        if (found - expected).abs() > 1e-9 * expected.abs() {
            return Err(unsupported(format!(
                "`rank_pattern` and `alpha_pattern` scale `{name}` by {found}, other modules by {expected}; one scale for all is supported"
            )));
        }
    }
    Ok(PeftConfig {
        r: r as usize,
        lora_alpha,
        lora_dropout,
        use_rslora,
        ranks: ranks.into_iter().map(|(name, rank)| (name, rank as usize)).collect(),
        metadata: object.get("luthier").and_then(read_metadata),
    })
}

/// Numbers by the ends of module paths; none where there is no such setting.
fn pattern(object: &Map<String, Value>, name: &str) -> std::result::Result<BTreeMap<String, f64>, String> {
    let malformed = || format!("`{name}` is {}; expected an object of numbers", shown(object, name));
    match object.get(name) {
        None | Some(Value::Null) => Ok(BTreeMap::new()),
        Some(Value::Object(numbers)) => {
            let pairs = numbers.iter().map(|(module, number)| Some((module.clone(), number.as_f64()?)));
            pairs.collect::<Option<_>>().ok_or_else(malformed)
        }
        Some(_) => Err(malformed()),
    }
}

fn shown(object: &Map<String, Value>, name: &str) -> String {
    object.get(name).map_or_else(|| "missing".to_owned(), Value::to_string)
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

/// The `luthier` object; `None` where a field is missing, since half an origin proves nothing.
fn read_metadata(value: &Value) -> Option<AdapterMetadata> {
    let text = |name: &str| value.get(name)?.as_str().map(str::to_owned);
    Some(AdapterMetadata {
        base_model_name: text("base_model_name")?,
        base_model_hash: text("base_model_hash")?,
        template_id: text("template_id")?,
        template_hash: text("template_hash")?,
    })
}

/// The settings as PEFT reads them, with the origin under `luthier`.
pub(super) fn config_json(adapter: &PeftAdapter, modules: &BTreeMap<String, FileModule>) -> String {
    let (mut ranks, mut alphas) = (Map::new(), Map::new());
    for (path, FileModule { rank, .. }) in modules.iter().filter(|(_, module)| module.rank != adapter.r) {
        let name = path.rsplit('.').next().unwrap_or(path);
        let times = *rank as f64 / adapter.r as f64;
        let alpha = adapter.lora_alpha * if adapter.use_rslora { times.sqrt() } else { times };
        ranks.insert(name.to_owned(), json!(rank));
        alphas.insert(name.to_owned(), json!(alpha));
    }
    // PEFT types alpha as an integer; write one where it is one.
    let alpha =
        if adapter.lora_alpha.fract() == 0.0 { json!(adapter.lora_alpha as i64) } else { json!(adapter.lora_alpha) };
    let mut config = json!({
        "base_model_name_or_path": adapter.metadata.as_ref().map(|metadata| &metadata.base_model_name),
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": alpha,
        "lora_dropout": adapter.lora_dropout,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": adapter.r,
        "target_modules": target_modules(modules.keys().map(String::as_str)),
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": adapter.use_rslora,
    });
    if !ranks.is_empty() {
        config["rank_pattern"] = Value::Object(ranks);
        config["alpha_pattern"] = Value::Object(alphas);
    }
    if let Some(metadata) = &adapter.metadata {
        config["luthier"] = json!({
            "base_model_hash": metadata.base_model_hash,
            "base_model_name": metadata.base_model_name,
            "template_hash": metadata.template_hash,
            "template_id": metadata.template_id,
        });
    }
    format!("{config:#}\n")
}
