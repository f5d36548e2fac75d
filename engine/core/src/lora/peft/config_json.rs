//! `adapter_config.json` as it is written: only what PEFT needs to know, since its older versions accept no setting that they do not know.

use serde_json::{Value, json};

use super::PeftAdapter;
use crate::lora::{LoraTargets, ModuleNames};

/// The settings as PEFT reads them. Settings that came later than PEFT 0.3 are there where they say something only.
pub(super) fn config_json(adapter: &PeftAdapter) -> String {
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
        "target_modules": match &adapter.targets.target_modules {
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
        &adapter.targets;
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
