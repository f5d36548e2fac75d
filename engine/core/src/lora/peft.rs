//! PEFT's adapter folders: `adapter_config.json` and `adapter_model.safetensors`, read and written; the older `adapter_model.bin` is read.

mod config;
mod config_json;
mod fused;
mod read;
mod write;

use std::collections::BTreeMap;

use super::targets::LoraTargets;
pub use fused::PeftNames;
pub use read::{read_adapter, read_adapter_info};
pub use write::{SavedAdapter, write_adapter};

/// Name of the file with the matrices, as it is written.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// As PEFT wrote it at first, by torch. Where a folder has both, the other one is read.
const OLD_WEIGHTS_FILE: &str = "adapter_model.bin";
/// Begins the names of what Luthier adds to the weights' metadata, such as `luthier.base_model_hash`.
const METADATA_PREFIX: &str = "luthier.";
/// Begins the names of what the weights' metadata say of a joined layer: the ranks of its parts.
const RANKS_PREFIX: &str = "luthier.ranks.";
/// Name of the file with the settings.
pub const CONFIG_FILE: &str = "adapter_config.json";

/// What Luthier adds to an adapter, in the metadata of `adapter_model.safetensors`: PEFT's older versions accept no setting that they do not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterMetadata {
    pub base_model_name: String,
    pub base_model_hash: String,
    pub template_id: String,
    pub template_hash: String,
    /// The template as the text of a file, where the base's own files do not hold it; else empty.
    pub template: String,
}

impl AdapterMetadata {
    /// From one text for each field by its name; none where one is missing, since half an origin proves nothing. `template` may be missing.
    fn from_texts(text: impl Fn(&str) -> Option<String>) -> Option<Self> {
        Some(Self {
            base_model_name: text("base_model_name")?,
            base_model_hash: text("base_model_hash")?,
            template_id: text("template_id")?,
            template_hash: text("template_hash")?,
            template: text("template").unwrap_or_default(),
        })
    }

    /// Each field's name and text.
    fn texts(&self) -> [(&'static str, &str); 5] {
        [
            ("base_model_name", &self.base_model_name),
            ("base_model_hash", &self.base_model_hash),
            ("template_id", &self.template_id),
            ("template_hash", &self.template_hash),
            ("template", &self.template),
        ]
    }
}

/// What an adapter's files say. Field for field the `AdapterInfo` of `src/engine/engine.ts`.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterInfo {
    pub r: usize,
    pub lora_alpha: f64,
    pub use_rslora: bool,
    /// Module names that have matrices, such as `q_proj`.
    pub target_modules: Vec<String>,
    pub parameter_count: u64,
    /// SHA-256 of the file with the matrices; lower-case hex.
    pub sha256: String,
    pub metadata: Option<AdapterMetadata>,
}

/// The two matrices of one linear layer, row-major f32: y += scale · B (A x).
#[derive(Clone, Debug, PartialEq)]
pub struct LoraMatrices {
    pub r: usize,
    /// Factor of B·A.
    pub scale: f64,
    pub in_features: usize,
    pub out_features: usize,
    /// `[r, in_features]`
    pub a: Vec<f32>,
    /// `[out_features, r]`
    pub b: Vec<f32>,
}

/// An adapter as PEFT stores it, in host memory.
#[derive(Clone, Debug, PartialEq)]
pub struct PeftAdapter {
    /// Of the modules to which no pattern of `targets` gives another.
    pub r: usize,
    pub lora_alpha: f64,
    pub targets: LoraTargets,
    /// What its training dropped.
    pub lora_dropout: f64,
    pub use_rslora: bool,
    /// By full module path under Llama's names, such as `model.layers.0.self_attn.q_proj`.
    pub modules: BTreeMap<String, LoraMatrices>,
    /// What the modules are called in files.
    pub names: PeftNames,
    pub metadata: Option<AdapterMetadata>,
}

impl PeftAdapter {
    /// Last components of the module paths, each once, in the order of a block's forward where they belong to one.
    pub fn target_modules(&self) -> Vec<String> {
        target_modules(self.modules.keys().map(String::as_str))
    }

    /// Numbers in all matrices.
    pub fn parameter_count(&self) -> u64 {
        self.modules.values().map(|matrices| (matrices.a.len() + matrices.b.len()) as u64).sum()
    }
}

fn target_modules<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<String> {
    let order =
        |name: &str| crate::load::LINEAR_MODULES.iter().position(|module| *module == name).unwrap_or(usize::MAX);
    let mut names: Vec<&str> = paths.map(|path| path.rsplit('.').next().unwrap_or(path)).collect();
    names.sort_by_key(|name| (order(name), *name));
    names.dedup();
    names.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
