//! PEFT's adapter folders: `adapter_config.json` and `adapter_model.safetensors`, read and written.

mod config;
mod fused;
mod read;
mod write;

use std::collections::BTreeMap;

pub use fused::PeftNames;
pub use read::{read_adapter, read_adapter_info};
pub use write::{SavedAdapter, write_adapter};

/// Name of the file with the matrices.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// Name of the file with the settings.
pub const CONFIG_FILE: &str = "adapter_config.json";

/// What Luthier adds to an adapter; in `adapter_config.json` under `luthier`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterMetadata {
    pub base_model_name: String,
    pub base_model_hash: String,
    pub template_id: String,
    pub template_hash: String,
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
    /// SHA-256 of `adapter_model.safetensors`; lower-case hex.
    pub sha256: String,
    pub metadata: Option<AdapterMetadata>,
}

/// The two matrices of one linear layer, row-major f32: y += scale · B (A x).
#[derive(Clone, Debug, PartialEq)]
pub struct LoraMatrices {
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
    pub r: usize,
    pub lora_alpha: f64,
    /// What its training dropped.
    pub lora_dropout: f64,
    pub use_rslora: bool,
    /// By full module path under Llama's names, such as `model.layers.0.self_attn.q_proj`; all of rank `r`.
    pub modules: BTreeMap<String, LoraMatrices>,
    /// What the modules are called in files.
    pub names: PeftNames,
    pub metadata: Option<AdapterMetadata>,
}

impl PeftAdapter {
    /// `lora_alpha / r`, or `lora_alpha / √r` with rsLoRA.
    pub fn scale(&self) -> f64 {
        self.lora_alpha / if self.use_rslora { (self.r as f64).sqrt() } else { self.r as f64 }
    }

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
