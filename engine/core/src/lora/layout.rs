//! Where an adapter's matrices lie in one flat buffer.

use super::peft::{PeftAdapter, PeftNames};
use crate::config::ModelConfig;
use crate::error::{EngineError, ErrorCode, Result};
use crate::model::{INPUT_GROUPS, InputGroup, LINEAR_MODULES, LinearModule};

/// One linear layer's pair of matrices: A `[r, in_features]` and B `[out_features, r]`, row-major, at offsets in elements.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraModule {
    pub layer: usize,
    pub module: LinearModule,
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
    /// r for each module that has matrices.
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
}

/// The layout of a whole adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraLayout {
    pub r: usize,
    /// What files call the modules.
    pub names: PeftNames,
    /// For each block, its groups; empty groups have no modules.
    layers: Vec<[LoraGroup; 4]>,
    len: usize,
}

impl LoraLayout {
    /// A layout for the modules that `chosen` accepts.
    pub fn new(config: &ModelConfig, r: usize, chosen: impl Fn(usize, LinearModule) -> bool) -> Self {
        let mut len = 0;
        let mut group = |layer: usize, group: InputGroup, first_column: &mut usize| {
            let chosen: Vec<LinearModule> =
                group.modules().iter().copied().filter(|module| chosen(layer, *module)).collect();
            let in_features = group.modules()[0].shape(config).1;
            let (a_offset, columns) = (len, chosen.len() * r);
            let mut b_offset = len + columns * in_features;
            let modules = chosen.into_iter().enumerate().map(|(index, module)| {
                let out_features = module.shape(config).0;
                let b_here = b_offset;
                b_offset += out_features * r;
                LoraModule {
                    layer,
                    module,
                    in_features,
                    out_features,
                    a_offset: a_offset + index * r * in_features,
                    b_offset: b_here,
                    column: index * r,
                }
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
        Self { r, names: PeftNames::new(config), layers, len }
    }

    /// A layout for named targets: a module's name or the end of its path after a dot, by Llama's names or by the family's (`W_pack` is all three
    /// of queries, keys and values); none: every linear layer but the output layer.
    ///
    /// Errors: `UNKNOWN_TARGET_MODULE` for a name that matches nothing, with the names that exist; `INVALID_ARGUMENT` for an empty list.
    pub fn for_targets(config: &ModelConfig, r: usize, targets: Option<&[String]>) -> Result<Self> {
        let Some(targets) = targets else {
            return Ok(Self::new(config, r, |_, _| true));
        };
        if targets.is_empty() {
            return Err(EngineError::invalid("target_modules is empty; name modules, or leave it out for all"));
        }
        let names = PeftNames::new(config);
        let matches = |target: &str, layer: usize, module: LinearModule| {
            let path = module_path(layer, module);
            let ends =
                |path: &str| path == target || path.strip_suffix(target).is_some_and(|before| before.ends_with('.'));
            ends(&path) || ends(&names.in_files(&path))
        };
        let everywhere = |target: &str| {
            (0..config.num_hidden_layers)
                .any(|layer| LINEAR_MODULES.iter().any(|module| matches(target, layer, *module)))
        };
        if let Some(unknown) = targets.iter().find(|target| !everywhere(target)) {
            let names: Vec<&str> = LINEAR_MODULES.iter().map(|module| module.name()).collect();
            let message =
                format!("target module `{unknown}` matches no linear layer; the model has {}", names.join(", "));
            return Err(EngineError::new(ErrorCode::UnknownTargetModule, message));
        }
        Ok(Self::new(config, r, |layer, module| targets.iter().any(|target| matches(target, layer, module))))
    }

    /// The layout of an adapter read from PEFT's files.
    ///
    /// Errors: `ADAPTER_MISMATCH` for matrices of a module that the model does not have.
    pub fn of_peft(config: &ModelConfig, peft: &PeftAdapter) -> Result<Self> {
        let layout = Self::new(config, peft.r, |layer, module| peft.modules.contains_key(&module_path(layer, module)));
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

fn module_path(layer: usize, module: LinearModule) -> String {
    format!("model.layers.{layer}.{}", module.path())
}
