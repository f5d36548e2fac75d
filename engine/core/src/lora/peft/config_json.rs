//! `adapter_config.json` as it is written: only what PEFT needs to know, since its older versions accept no setting that they do not know.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{LoraMatrices, PeftAdapter, target_modules};
use crate::lora::{LoraTargets, ModuleNames};

/// The settings as PEFT reads them. Settings that came later than PEFT 0.3 are there where they say something only.
/// `modules`: by the names of files. Where those are not Llama's, targets and ranks are said by them instead of as they were given.
pub(super) fn config_json(adapter: &PeftAdapter, modules: &BTreeMap<String, LoraMatrices>) -> String {
    let targets = if adapter.names.are_llamas() { adapter.targets.clone() } else { targets_of(adapter, modules) };
    let mut config = json!({
        "base_model_name_or_path": adapter.metadata.as_ref().map(|metadata| &metadata.base_model_name),
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "lora_alpha": alpha(adapter.lora_alpha),
        "lora_dropout": adapter.lora_dropout,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": adapter.r,
        "target_modules": match &targets.target_modules {
            // As PEFT itself writes `all-linear`: by name.
            ModuleNames::AllLinear => json!(adapter.target_modules()),
            names => names_json(names),
        },
        "task_type": "CAUSAL_LM",
    });
    if adapter.use_rslora {
        config["use_rslora"] = json!(true);
    }
    let LoraTargets { exclude_modules, layers_to_transform, layers_pattern, rank_pattern, alpha_pattern, .. } =
        &targets;
    if let Some(names) = exclude_modules {
        config["exclude_modules"] = names_json(names);
    }
    if let Some(layers) = layers_to_transform {
        config["layers_to_transform"] = json!(layers);
    }
    if !layers_pattern.is_empty() {
        config["layers_pattern"] = json!(layers_pattern);
    }
    if !rank_pattern.is_empty() {
        config["rank_pattern"] = json!(rank_pattern);
    }
    if !alpha_pattern.is_empty() {
        config["alpha_pattern"] = alpha_pattern.iter().map(|(key, value)| (key.clone(), alpha(*value))).collect();
    }
    format!("{config:#}\n")
}

/// What says exactly these modules with their ranks and scales: by the last component of a path where that says it for every block, else by the
/// whole path.
fn targets_of(adapter: &PeftAdapter, modules: &BTreeMap<String, LoraMatrices>) -> LoraTargets {
    let alpha_of = |LoraMatrices { r, scale, .. }: &LoraMatrices| {
        scale * if adapter.use_rslora { (*r as f64).sqrt() } else { *r as f64 }
    };
    let mut targets = LoraTargets::named([]);
    let mut names = Vec::new();
    for name in target_modules(modules.keys().map(String::as_str)) {
        let same: Vec<_> = modules.iter().filter(|(path, _)| path.rsplit('.').next() == Some(&*name)).collect();
        if same.len() == adapter.names.blocks() {
            names.push(name.clone());
        } else {
            names.extend(same.iter().map(|(path, _)| (*path).clone()));
        }
        let is_one = same.iter().all(|(_, matrices)| matrices.r == same[0].1.r && matrices.scale == same[0].1.scale);
        for (path, matrices) in same {
            let (key, alpha) = (if is_one { &name } else { path }, alpha_of(matrices));
            if matrices.r != adapter.r {
                targets.rank_pattern.insert(key.clone(), matrices.r);
            }
            if (alpha - adapter.lora_alpha).abs() > 1e-9 * alpha.abs() {
                targets.alpha_pattern.insert(key.clone(), alpha);
            }
        }
    }
    targets.target_modules = ModuleNames::Names(names);
    targets
}

/// PEFT types alpha as an integer; one is written where it is one.
fn alpha(alpha: f64) -> Value {
    if alpha.fract() == 0.0 { json!(alpha as i64) } else { json!(alpha) }
}

fn names_json(names: &ModuleNames) -> Value {
    match names {
        ModuleNames::AllLinear => json!("all-linear"),
        ModuleNames::Names(names) => json!(names),
        ModuleNames::Pattern(pattern) => json!(pattern),
    }
}
