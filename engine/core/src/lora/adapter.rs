//! An adapter on a device: all matrices in one flat buffer, so that optimizer and norm see one vector.

use std::sync::Arc;

use super::config::LoraConfig;
use super::layout::LoraLayout;
use super::peft::{AdapterMetadata, LoraMatrices, PeftAdapter};
use super::targets::LoraTargets;
use crate::config::ModelConfig;
use crate::error::{EngineError, ErrorCode, Result};
use crate::ops::{Element, Ops, View, ViewMut};
use crate::random::MersenneTwister;

/// y += scale · B (A x) for the modules of the layout, each with its rank and scale.
pub struct LoraAdapter<O: Ops> {
    pub layout: Arc<LoraLayout>,
    /// Of the modules to which no pattern of `targets` gives another.
    pub r: usize,
    pub lora_alpha: f64,
    pub targets: LoraTargets,
    /// What its training drops; evaluation and generation drop nothing.
    pub lora_dropout: f64,
    pub use_rslora: bool,
    /// Matrices as the layout places them.
    pub parameters: O::Buffer,
}

impl<O: Ops> LoraAdapter<O> {
    /// A new adapter, initialised as PEFT does: B = 0 and A uniform in ±1/√in_features, drawn from torch's generator in PEFT's order.
    ///
    /// Errors: `INVALID_ARGUMENT`, `UNKNOWN_TARGET_MODULE`, `OUT_OF_MEMORY`.
    pub fn new(ops: &O, model: &ModelConfig, config: &LoraConfig) -> Result<Self> {
        config.validate()?;
        let layout = LoraLayout::for_config(model, config)?;
        let mut values = vec![O::Elem::from_f64(0.0); layout.len()];
        let mut random = MersenneTwister::new(config.seed);
        for module in layout.modules() {
            let count = module.r * module.in_features;
            // PEFT makes two torch layers, whose constructors draw A and B, and then draws A again.
            for _ in 0..count + module.out_features * module.r {
                random.next_u32();
            }
            let bound = kaiming_bound(module.in_features);
            for value in &mut values[module.a_offset..module.a_offset + count] {
                *value = O::Elem::from_f64(f64::from(random.uniform_f32(bound)));
            }
        }
        let parameters = upload(ops, &values)?;
        let LoraConfig { r, lora_alpha, lora_dropout, use_rslora, .. } = *config;
        let targets = config.targets.clone();
        Ok(Self { layout: Arc::new(layout), r, lora_alpha, targets, lora_dropout, use_rslora, parameters })
    }

    /// No matrices: the base model alone.
    pub fn empty(ops: &O, model: &ModelConfig) -> Result<Self> {
        let layout = LoraLayout::empty(model);
        let parameters = ops.allocate(layout.len())?;
        Ok(Self {
            layout: Arc::new(layout),
            r: 1,
            lora_alpha: 1.0,
            targets: LoraTargets::default(),
            lora_dropout: 0.0,
            use_rslora: false,
            parameters,
        })
    }

    /// An adapter read from PEFT's files.
    ///
    /// Errors: `ADAPTER_MISMATCH` where the model has no such module or another shape; `OUT_OF_MEMORY`.
    pub fn from_peft(ops: &O, model: &ModelConfig, peft: &PeftAdapter) -> Result<Self> {
        let layout = LoraLayout::of_peft(model, peft)?;
        let mismatch = |what: String| EngineError::new(ErrorCode::AdapterMismatch, what);
        let mut values = vec![O::Elem::from_f64(0.0); layout.len()];
        for module in layout.modules() {
            let matrices = &peft.modules[&module.path()];
            let (found, expected) =
                ((matrices.out_features, matrices.in_features), (module.out_features, module.in_features));
            if found != expected {
                let path = module.path();
                return Err(mismatch(format!(
                    "`{path}`: the adapter is for (out, in) = {found:?}; expected {expected:?}"
                )));
            }
            for (offset, from) in [(module.a_offset, &matrices.a), (module.b_offset, &matrices.b)] {
                for (value, from) in values[offset..].iter_mut().zip(from) {
                    *value = O::Elem::from_f64(f64::from(*from));
                }
            }
        }
        let parameters = upload(ops, &values)?;
        let PeftAdapter { r, lora_alpha, lora_dropout, use_rslora, .. } = *peft;
        let targets = peft.targets.clone();
        Ok(Self { layout: Arc::new(layout), r, lora_alpha, targets, lora_dropout, use_rslora, parameters })
    }

    /// The matrices in host memory, as PEFT stores them. Waits for the device.
    pub fn to_peft(&self, ops: &O, metadata: Option<AdapterMetadata>) -> Result<PeftAdapter> {
        Ok(PeftAdapter {
            r: self.r,
            lora_alpha: self.lora_alpha,
            targets: self.targets.clone(),
            lora_dropout: self.lora_dropout,
            use_rslora: self.use_rslora,
            names: self.layout.names.clone(),
            modules: matrices(ops, &self.layout, &self.parameters)?,
            metadata,
        })
    }
}

fn upload<O: Ops>(ops: &O, values: &[O::Elem]) -> Result<O::Buffer> {
    let mut buffer = ops.allocate(values.len())?;
    ops.write(values, ViewMut::from(&mut buffer))?;
    Ok(buffer)
}

/// The matrices of a flat buffer (parameters or their gradients) by module path.
pub(crate) fn matrices<O: Ops>(
    ops: &O,
    layout: &LoraLayout,
    buffer: &O::Buffer,
) -> Result<std::collections::BTreeMap<String, LoraMatrices>> {
    let mut values = vec![O::Elem::from_f64(0.0); layout.len()];
    ops.read(View::from(buffer), &mut values)?;
    let numbers = |offset: usize, len: usize| values[offset..offset + len].iter().map(|x| x.to_f64() as f32).collect();
    let entry = |module: &super::LoraModule| {
        let super::LoraModule { r, scale, in_features, out_features, .. } = *module;
        let a = numbers(module.a_offset, r * in_features);
        let b = numbers(module.b_offset, out_features * r);
        (module.path(), LoraMatrices { r, scale, in_features, out_features, a, b })
    };
    Ok(layout.modules().map(entry).collect())
}

/// Bound of torch's `kaiming_uniform_(a=√5)`: 1/√in_features, with torch's roundings.
fn kaiming_bound(in_features: usize) -> f32 {
    let gain = (2.0 / (1.0 + 5f64.sqrt().powi(2))).sqrt();
    (3f64.sqrt() * (gain / (in_features as f64).sqrt())) as f32
}
