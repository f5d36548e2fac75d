//! What makes a run the same run: everything that its numbers follow from.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use super::data::DataIdentity;
use super::exact;
use super::settings::{DEVICES, settings};
use crate::error::{EngineError, ErrorCode, Result};
use crate::lora::{LoraLayout, LoraModule};
use crate::model::Examples;
use crate::train::TrainConfig;

/// A base model as its weights are held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelIdentity {
    /// Of its files.
    pub content_hash: String,
    /// How the weights of linear layers are held, such as `nf4`.
    pub weights: String,
}

/// A layer's matrices A and B and where they begin in the flat tensors, in numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleIdentity {
    pub name: String,
    pub r: usize,
    #[serde(with = "exact")]
    pub scale: f64,
    pub in_features: usize,
    pub out_features: usize,
    pub a_offset: usize,
    pub b_offset: usize,
}

impl From<&LoraModule> for ModuleIdentity {
    fn from(module: &LoraModule) -> Self {
        let LoraModule { r, scale, in_features, out_features, a_offset, b_offset, .. } = *module;
        Self { name: module.path(), r, scale, in_features, out_features, a_offset, b_offset }
    }
}

/// What a checkpoint is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunIdentity {
    pub engine_version: String,
    /// What the last digits depend on.
    pub environment: BTreeMap<String, String>,
    /// Where the run's maker knows it.
    pub model: Option<ModelIdentity>,
    pub settings: BTreeMap<String, String>,
    pub train: DataIdentity,
    pub evaluation: Option<DataIdentity>,
    pub modules: Vec<ModuleIdentity>,
}

/// What a resumed run went on from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResumedFrom {
    /// Steps done before.
    pub global_step: u64,
    /// What the last digits depend on and is not as it was, for people.
    pub differences: Vec<String>,
}

/// The identity of a run under way. Examples are hashed when it is first asked for, on the thread that asks.
pub struct Identity {
    environment: BTreeMap<String, String>,
    pub model: Option<ModelIdentity>,
    settings: BTreeMap<String, String>,
    modules: Vec<ModuleIdentity>,
    train: Arc<dyn Examples>,
    evaluation: Option<Arc<dyn Examples>>,
    whole: OnceLock<RunIdentity>,
}

impl Identity {
    /// Of a run that was not given its model's hash yet.
    pub fn new(
        environment: BTreeMap<String, String>,
        config: &TrainConfig,
        layout: &LoraLayout,
        train: Arc<dyn Examples>,
        evaluation: Option<Arc<dyn Examples>>,
    ) -> Self {
        let modules = layout.modules().map(ModuleIdentity::from).collect();
        let settings = settings(config);
        Self { environment, model: None, settings, modules, train, evaluation, whole: OnceLock::new() }
    }

    /// Reads every example, once.
    pub fn whole(&self) -> &RunIdentity {
        self.whole.get_or_init(|| RunIdentity {
            engine_version: env!("CARGO_PKG_VERSION").to_owned(),
            environment: self.environment.clone(),
            model: self.model.clone(),
            settings: self.settings.clone(),
            train: DataIdentity::of(&*self.train),
            evaluation: self.evaluation.as_deref().map(DataIdentity::of),
            modules: self.modules.clone(),
        })
    }
}

impl RunIdentity {
    /// What is not as it was but for the last digits, where `found` is a run that is to go on from a checkpoint of `self`.
    ///
    /// Errors: `CHECKPOINT_MISMATCH` where it is another run.
    pub fn differences(&self, found: &Self) -> Result<Vec<String>> {
        if self.model != found.model {
            let text = |model: &Option<ModelIdentity>| {
                model.as_ref().map_or_else(
                    || "an unknown model".to_owned(),
                    |ModelIdentity { content_hash, weights }| format!("{content_hash} held as {weights}"),
                )
            };
            return Err(mismatch("base model", &text(&self.model), &text(&found.model)));
        }
        if let Some((name, expected, found)) = first_difference(&self.settings, &found.settings) {
            return Err(match name {
                DEVICES => other_devices(expected, found),
                _ => mismatch(name, expected, found),
            });
        }
        let modules = |of: &Self| -> BTreeMap<String, String> {
            of.modules.iter().map(|module| (module.name.clone(), described(module))).collect()
        };
        let (mine, others) = (modules(self), modules(found));
        if let Some((name, expected, found)) = first_difference(&mine, &others) {
            return Err(mismatch(&format!("the adapter's {name}"), expected, found));
        }
        let none = || "none".to_owned();
        let text = |data: &Option<DataIdentity>| data.as_ref().map_or_else(none, DataIdentity::describe);
        if self.train != found.train {
            return Err(mismatch("training data", &self.train.describe(), &found.train.describe()));
        }
        if self.evaluation != found.evaluation {
            return Err(mismatch("evaluation data", &text(&self.evaluation), &text(&found.evaluation)));
        }
        let mut differences = Vec::new();
        let mut note = |name: &str, then: &str, now: &str| {
            if then != now {
                differences.push(format!("{name}: {then} when the checkpoint was taken, now {now}"));
            }
        };
        note("engine", &self.engine_version, &found.engine_version);
        for name in
            self.environment.keys().chain(found.environment.keys().filter(|name| !self.environment.contains_key(*name)))
        {
            let value = |of: &Self| of.environment.get(name).cloned().unwrap_or_else(none);
            note(name, &value(self), &value(found));
        }
        Ok(differences)
    }
}

fn described(module: &ModuleIdentity) -> String {
    let ModuleIdentity { r, scale, in_features, out_features, a_offset, b_offset, .. } = module;
    format!("r {r}, scale {scale}, {in_features} to {out_features}, at {a_offset} and {b_offset}")
}

/// The first name that has not the same value on both sides, and both values.
fn first_difference<'a>(
    expected: &'a BTreeMap<String, String>,
    found: &'a BTreeMap<String, String>,
) -> Option<(&'a str, &'a str, &'a str)> {
    let value = |of: &'a BTreeMap<String, String>, name: &str| of.get(name).map_or("not there", String::as_str);
    let names = expected.keys().chain(found.keys());
    names.map(|name| (name.as_str(), value(expected, name), value(found, name))).find(|(_, a, b)| a != b)
}

/// The examples of a step follow from how many devices share it.
fn other_devices(expected: &str, found: &str) -> EngineError {
    let message = format!(
        "devices: the checkpoint was taken with {expected} training together; found {found}; go on with {expected} (the server's `--devices`), or start a new run"
    );
    EngineError::new(ErrorCode::CheckpointMismatch, message)
}

fn mismatch(what: &str, expected: &str, found: &str) -> EngineError {
    let message = format!(
        "{what}: the checkpoint was taken with {expected}; found {found}; go on with the same, or start a new run"
    );
    EngineError::new(ErrorCode::CheckpointMismatch, message)
}
