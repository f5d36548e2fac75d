//! Reads `test/parity/golden/<case>/`, which `test/parity/make_goldens.py` writes.

use std::path::PathBuf;
use std::sync::Arc;

use luthier_core::WeightStorage;
use luthier_core::load;
use luthier_core::lora::peft::{PeftAdapter, read_adapter};
use luthier_core::lora::{LoraConfig, LoraTargets};
use luthier_core::model::{BaseModel, TokenExamples};
use luthier_core::ops::Ops;
use luthier_core::train::{Recompute, TrainConfig};
use serde_json::Value;

pub struct Golden {
    pub folder: PathBuf,
    pub data: Value,
    pub expected: Value,
}

impl Golden {
    pub fn open(case: &str) -> Self {
        // Cargo's variable of the moment first: the program may run elsewhere than where it was built.
        let package = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
        let folder = PathBuf::from(package).join("../../test/parity/golden").join(case);
        let json = |name: &str| -> Value {
            let path = folder.join(name);
            let text = std::fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("{}: {error}; run test/parity/make_goldens.py", path.display()));
            serde_json::from_str(&text).unwrap()
        };
        Self { data: json("data.json"), expected: json("expected.json"), folder }
    }

    pub fn model<O: Ops>(&self, ops: &O) -> Arc<BaseModel<O>> {
        self.model_held(ops, WeightStorage::Stored)
    }

    pub fn model_held<O: Ops>(&self, ops: &O, storage: WeightStorage) -> Arc<BaseModel<O>> {
        let files = load::open(&self.folder.join("model")).unwrap();
        Arc::new(BaseModel::load(ops, &*files, storage).unwrap())
    }

    pub fn adapter(&self, name: &str) -> PeftAdapter {
        let files = load::open(&self.folder.join("model")).unwrap();
        read_adapter(&self.folder.join(name), files.config(), None).unwrap().0
    }

    pub fn train(&self) -> TokenExamples {
        examples(&self.data)
    }

    pub fn evaluation(&self) -> TokenExamples {
        examples(&self.data["eval"])
    }

    pub fn config(&self) -> TrainConfig {
        let config = &self.data["config"];
        let lora = &config["lora"];
        let count = |value: &Value| value.as_u64().unwrap();
        let number = |name: &str| config[name].as_f64().unwrap();
        TrainConfig {
            lora: LoraConfig {
                r: count(&lora["r"]) as usize,
                lora_alpha: lora["lora_alpha"].as_f64().unwrap(),
                lora_dropout: 0.0,
                targets: match lora["target_modules"].as_array() {
                    Some(list) => LoraTargets::named(list.iter().map(|name| name.as_str().unwrap())),
                    None => LoraTargets::default(),
                },
                use_rslora: lora["use_rslora"].as_bool().unwrap(),
                seed: count(&lora["seed"]),
            },
            learning_rate: number("learning_rate"),
            lr_scheduler_type: config["lr_scheduler_type"].as_str().unwrap().parse().unwrap(),
            warmup_steps: number("warmup_steps"),
            weight_decay: number("weight_decay"),
            adam_beta1: number("adam_beta1"),
            adam_beta2: number("adam_beta2"),
            adam_epsilon: number("adam_epsilon"),
            max_grad_norm: number("max_grad_norm"),
            per_device_train_batch_size: count(&config["per_device_train_batch_size"]) as usize,
            gradient_accumulation_steps: count(&config["gradient_accumulation_steps"]) as usize,
            num_train_epochs: number("num_train_epochs"),
            max_steps: config["max_steps"].as_u64(),
            per_device_eval_batch_size: count(&config["per_device_eval_batch_size"]) as usize,
            eval_steps: config["eval_steps"].as_u64(),
            shuffle: config["shuffle"].as_bool().unwrap(),
            data_seed: count(&config["data_seed"]),
            group_by_length: false,
            packing_length: None,
            recompute_layers: Recompute::Layers(0),
            offload_activations: false,
            loss_scaling: None,
            ..TrainConfig::default()
        }
    }
}

fn examples(value: &Value) -> TokenExamples {
    let mut examples = TokenExamples { offsets: vec![0], ..TokenExamples::default() };
    let rows = |name: &str| value[name].as_array().unwrap();
    for (ids, labels) in rows("input_ids").iter().zip(rows("labels")) {
        examples.input_ids.extend(ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32));
        examples.labels.extend(labels.as_array().unwrap().iter().map(|label| label.as_i64().unwrap() as i32));
        examples.offsets.push(examples.input_ids.len() as u32);
    }
    examples
}

/// Fails where `found` is not within a relative tolerance of `expected`.
pub fn close(what: &str, found: f64, expected: f64, tolerance: f64) {
    let difference = (found - expected).abs();
    assert!(difference <= tolerance * expected.abs(), "{what}: {found}, expected {expected} within {tolerance:e}");
}
