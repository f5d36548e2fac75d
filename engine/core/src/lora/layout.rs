//! Where an adapter's matrices lie in one flat buffer.

use std::collections::{BTreeMap, HashMap};

use super::config::{LoraConfig, lora_scale};
use super::peft::{PeftAdapter, PeftNames};
use super::targets::{ModuleNames, TargetRules, names_module};
use crate::config::ModelConfig;
use crate::error::{EngineError, ErrorCode, Result};
use crate::load::linear_modules;
use crate::model::{INPUT_GROUPS, InputGroup, LINEAR_MODULES, LinearModule};

/// Rank of a linear layer's low-rank half, and the factor of B·A.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LowRank {
    pub r: usize,
    pub scale: f64,
}

/// One linear layer's pair of matrices: A `[r, in_features]` and B `[out_features, r]`, row-major, at offsets in elements.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraModule {
    pub layer: usize,
    pub module: LinearModule,
    pub r: usize,
    /// Factor of B·A.
    pub scale: f64,
    pub in_features: usize,
    pub out_features: usize,
    pub a_offset: usize,
    pub b_offset: usize,
    /// First of this module's r columns among those of its group's products with A.
    pub column: usize,
}

impl LoraModule {
    /// Full module path, such as `model.layers.0.self_attn.q_proj`.
    pub fn path(&self) -> String {
        module_path(self.layer, self.module)
    }

    /// PEFT's name of A, such as `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`.
    pub fn a_name(&self) -> String {
        format!("base_model.model.{}.lora_A.weight", self.path())
    }

    /// PEFT's name of B.
    pub fn b_name(&self) -> String {
        format!("base_model.model.{}.lora_B.weight", self.path())
    }
}

/// Matrices of the modules that share an input. Their A's follow one another, as one matrix `[columns, in_features]`.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraGroup {
    pub in_features: usize,
    pub a_offset: usize,
    /// The ranks of the modules that have matrices, together.
    pub columns: usize,
    /// First of the group's columns among those of the whole block.
    pub first_column: usize,
    pub modules: Vec<LoraModule>,
}

impl LoraGroup {
    /// The matrices of one layer of the group, if it has any.
    pub fn module(&self, module: LinearModule) -> Option<&LoraModule> {
        self.modules.iter().find(|lora| lora.module == module)
    }

    /// Neighbours with one factor: one product with A takes them together.
    pub fn of_one_scale(&self) -> impl Iterator<Item = &[LoraModule]> {
        self.modules.chunk_by(|a, b| a.scale == b.scale)
    }

    /// Neighbours with one rank and one factor: one pass over the output gradients takes them together.
    pub fn of_one_rank(&self) -> impl Iterator<Item = &[LoraModule]> {
        self.modules.chunk_by(|a, b| a.r == b.r && a.scale == b.scale)
    }
}

/// The layout of a whole adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraLayout {
    /// What files call the modules.
    pub names: PeftNames,
    /// For each block, its groups; empty groups have no modules.
    layers: Vec<[LoraGroup; 4]>,
    len: usize,
}

impl LoraLayout {
    /// A layout for the modules that `chosen` gives a rank.
    pub fn new(config: &ModelConfig, chosen: impl Fn(usize, LinearModule) -> Option<LowRank>) -> Self {
        let mut len = 0;
        let mut group = |layer: usize, group: InputGroup, first_column: &mut usize| {
            let chosen: Vec<(LinearModule, LowRank)> =
                group.modules().iter().filter_map(|module| Some((*module, chosen(layer, *module)?))).collect();
            let in_features = group.modules()[0].shape(config).1;
            let (a_offset, columns) = (len, chosen.iter().map(|(_, low_rank)| low_rank.r).sum());
            let (mut b_offset, mut column) = (len + columns * in_features, 0);
            let modules = chosen.into_iter().map(|(module, LowRank { r, scale })| {
                let out_features = module.shape(config).0;
                let (a_offset, b_here) = (a_offset + column * in_features, b_offset);
                let lora = LoraModule {
                    layer,
                    module,
                    r,
                    scale,
                    in_features,
                    out_features,
                    a_offset,
                    b_offset: b_here,
                    column,
                };
                (b_offset, column) = (b_offset + out_features * r, column + r);
                lora
            });
            let modules = modules.collect();
            len = b_offset;
            let group = LoraGroup { in_features, a_offset, columns, first_column: *first_column, modules };
            *first_column += columns;
            group
        };
        let layers = (0..config.num_hidden_layers).map(|layer| {
            let mut first_column = 0;
            INPUT_GROUPS.map(|kind| group(layer, kind, &mut first_column))
        });
        let layers = layers.collect();
        Self { names: PeftNames::new(config), layers, len }
    }

    /// A layout without matrices.
    pub fn empty(config: &ModelConfig) -> Self {
        Self::new(config, |_, _| None)
    }

    /// The layout of a new adapter. What is named must be there: a name that matches nothing is likely a slip. Modules have Llama's paths and those
    /// of the family's files: `W_pack` is all three of queries, keys and values.
    ///
    /// Errors: `UNKNOWN_TARGET_MODULE` for a name, pattern or layer that matches nothing, with what there is; `INVALID_ARGUMENT` for an empty
    /// list, a regular expression that cannot be read, settings that do not go together, or parts of a fused layer with several scales.
    pub fn for_config(config: &ModelConfig, lora: &LoraConfig) -> Result<Self> {
        let targets = &lora.targets;
        let rules = TargetRules::new(targets)?;
        let names = PeftNames::new(config);
        // Of each module, its path and the file's where that is another.
        let modules: Vec<Vec<String>> = (0..config.num_hidden_layers)
            .flat_map(|layer| LINEAR_MODULES.map(|module| names.paths(module_path(layer, module))))
            .collect();
        let unknown = |what: String| {
            let (last, names) = (config.num_hidden_layers - 1, linear_modules(&config.model_type).join(", "));
            let message = format!("{what} matches no linear layer; the model has {names} in blocks 0 to {last}");
            EngineError::new(ErrorCode::UnknownTargetModule, message)
        };
        for (field, names) in
            [("target module", Some(&targets.target_modules)), ("exclude module", targets.exclude_modules.as_ref())]
        {
            let Some(ModuleNames::Names(names)) = names else { continue };
            if names.is_empty() {
                return Err(EngineError::invalid(format!(
                    "the list of {field}s is empty; name modules, or leave it out"
                )));
            }
            if let Some(name) = names.iter().find(|name| !modules.iter().flatten().any(|path| names_module(name, path)))
            {
                return Err(unknown(format!("{field} `{name}`")));
            }
        }
        if let Some(layer) =
            targets.layers_to_transform.iter().flatten().find(|layer| **layer >= config.num_hidden_layers)
        {
            return Err(unknown(format!("layer {layer} of layers_to_transform")));
        }
        let mut chosen = HashMap::new();
        for (index, paths) in modules.iter().enumerate() {
            if rules.is_target_by_any(paths)? {
                let r = rules.rank_by_any(paths)?.unwrap_or(lora.r);
                let scale = lora_scale(r, rules.alpha_by_any(paths)?.unwrap_or(lora.lora_alpha), lora.use_rslora);
                chosen.insert(index, LowRank { r, scale });
            }
        }
        if chosen.is_empty() {
            return Err(unknown("the choice of target modules".to_owned()));
        }
        let scales = chosen.iter().map(|(index, low_rank)| (modules[*index][0].as_str(), low_rank.scale));
        names.check_scales(scales.collect::<BTreeMap<_, _>>()).map_err(EngineError::invalid)?;
        let adapted: Vec<String> = modules
            .into_iter()
            .enumerate()
            .filter(|(index, _)| chosen.contains_key(index))
            .flat_map(|(_, paths)| paths)
            .collect();
        if let Some(key) = rules.unused_key(&adapted)? {
            return Err(unknown(format!("`{key}` of rank_pattern or alpha_pattern")));
        }
        let modules = LINEAR_MODULES.len();
        Ok(Self::new(config, |layer, module| chosen.get(&(layer * modules + module as usize)).copied()))
    }

    /// The layout of an adapter read from PEFT's files.
    ///
    /// Errors: `ADAPTER_MISMATCH` for matrices of a module that the model does not have.
    pub fn of_peft(config: &ModelConfig, peft: &PeftAdapter) -> Result<Self> {
        let layout = Self::new(config, |layer, module| {
            let matrices = peft.modules.get(&module_path(layer, module))?;
            Some(LowRank { r: matrices.r, scale: matrices.scale })
        });
        if layout.modules().count() == peft.modules.len() {
            return Ok(layout);
        }
        let known: Vec<String> = layout.modules().map(LoraModule::path).collect();
        let unknown = peft.modules.keys().find(|path| !known.contains(path)).map_or("", String::as_str);
        let message = format!("the adapter has matrices for `{unknown}`; the model has no such linear layer");
        Err(EngineError::new(ErrorCode::AdapterMismatch, message))
    }

    /// Elements of the flat buffer.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no module has matrices.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A block's group.
    pub fn group(&self, layer: usize, group: InputGroup) -> &LoraGroup {
        &self.layers[layer][group as usize]
    }

    /// Where a block's matrices begin; a block further on than there are: where the last block's end.
    pub fn layer_start(&self, layer: usize) -> usize {
        self.layers.get(layer).map_or(self.len, |groups| groups[0].a_offset)
    }

    /// Every block's groups, empty ones among them.
    pub fn groups(&self) -> impl Iterator<Item = &LoraGroup> {
        self.layers.iter().flatten()
    }

    /// Columns of all groups of a block together: the width of its products with A.
    pub fn columns(&self, layer: usize) -> usize {
        self.layers[layer].iter().map(|group| group.columns).sum()
    }

    /// The widest block's.
    pub fn most_columns(&self) -> usize {
        (0..self.layers.len()).map(|layer| self.columns(layer)).max().unwrap_or(0)
    }

    /// Most in_features of a layer with matrices.
    pub fn widest_input(&self) -> usize {
        self.modules().map(|module| module.in_features).max().unwrap_or(0)
    }

    /// The lowest block with matrices: below it nothing is learned.
    pub fn lowest_layer(&self) -> Option<usize> {
        self.modules().map(|module| module.layer).min()
    }

    /// Every module with matrices, block by block in the order of use.
    pub fn modules(&self) -> impl Iterator<Item = &LoraModule> {
        self.layers.iter().flatten().flat_map(|group| &group.modules)
    }

    /// Names of the modules that have matrices in any block, in the order of use.
    pub fn target_modules(&self) -> Vec<String> {
        let present = |module: &LinearModule| self.modules().any(|lora| lora.module == *module);
        LINEAR_MODULES.iter().filter(|module| present(module)).map(|module| module.name().to_owned()).collect()
    }
}

/// Full path of a block's linear layer, such as `model.layers.0.self_attn.q_proj`.
pub(crate) fn module_path(layer: usize, module: LinearModule) -> String {
    format!("model.layers.{layer}.{}", module.path())
}
