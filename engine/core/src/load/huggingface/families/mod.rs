//! The families of models, each a mapping of its `config.json` and of its tensors' names to those of Llama; see `docs/models.md`.

mod baichuan;
mod chatglm;
mod common;
mod llama;
mod mistral;
mod names;
mod qwen2;
mod qwen3;

pub(super) use names::Location;
pub(crate) use names::{Locations, TensorNames};

use super::fields::Fields;
use crate::config::ModelConfig;
use crate::error::Result;

/// One family.
pub(super) struct Family {
    pub model_type: &'static str,
    /// Names under `architectures` of the classes that compute it.
    pub classes: &'static [&'static str],
    /// Reads all of a configuration but the ids of tokens. Errors: `MODEL_CORRUPT`, `MODEL_UNSUPPORTED`, naming the field.
    pub config: fn(&Fields<'_>) -> Result<ModelConfig>,
    pub names: TensorNames,
}

/// All of them.
pub(super) static FAMILIES: [&Family; 6] =
    [&llama::FAMILY, &mistral::FAMILY, &qwen2::FAMILY, &qwen3::FAMILY, &baichuan::FAMILY, &chatglm::FAMILY];

/// The names that files and adapters of a `model_type` use.
pub(crate) fn names_of(model_type: &str) -> &'static TensorNames {
    let family = FAMILIES.into_iter().find(|family| family.model_type == model_type);
    family.map_or(&llama::FAMILY.names, |family| &family.names)
}
