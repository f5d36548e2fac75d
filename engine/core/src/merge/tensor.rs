//! The merged tensors, by Hugging Face name, in f32.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::config::ModelConfig;
use crate::error::{EngineError, Result};
use crate::load::{ModelFiles, expected_tensors};
use crate::lora::module_path;
use crate::lora::peft::{LoraMatrices, PeftAdapter};
use crate::model::{LINEAR_MODULES, normalized_rows};
use crate::quant::{WeightStorage, convert, dequantize, dequantize_rows};
use crate::tensor::{HostTensor, StoredType};

/// Numbers that exist in f32 at once.
const PIECE_NUMBERS: usize = 1 << 22;
/// Rows of a piece are a multiple of this, so that blocks of flattened matrices, which are as long, begin where pieces do.
const ROW_UNIT: usize = 64;

/// Base and adapter together.
pub(super) struct MergedTensors<'a> {
    files: &'a dyn ModelFiles,
    storage: WeightStorage,
    adapter: &'a PeftAdapter,
    shapes: BTreeMap<String, Vec<usize>>,
    dequantized_from: Option<StoredType>,
    /// The output layer's rows are brought to unit length where the model does so.
    normalized_head: bool,
}

impl<'a> MergedTensors<'a> {
    /// `adapter` must fit the model. Errors: those of the files.
    pub fn new(files: &'a dyn ModelFiles, storage: WeightStorage, adapter: &'a PeftAdapter) -> Result<Self> {
        let shapes = expected_tensors(files.config());
        let mut numbers_by_type: Vec<(StoredType, usize)> = Vec::new();
        for name in linear_names(files.config()) {
            let form = files.form(&name)?.converted(storage);
            let is_float = matches!(form.stored, StoredType::F32 | StoredType::F16 | StoredType::BF16);
            match numbers_by_type.iter_mut().find(|(stored, _)| *stored == form.stored) {
                _ if is_float => {}
                Some((_, numbers)) => *numbers += form.len(),
                None => numbers_by_type.push((form.stored, form.len())),
            }
        }
        let dequantized_from =
            numbers_by_type.into_iter().max_by_key(|(_, numbers)| *numbers).map(|(stored, _)| stored);
        Ok(Self { files, storage, adapter, shapes, dequantized_from, normalized_head: false })
    }

    /// For files of which nobody else normalises the output layer.
    pub fn with_normalized_head(self) -> Self {
        Self { normalized_head: self.files.config().variant.normalized_head, ..self }
    }

    pub fn config(&self) -> &ModelConfig {
        self.files.config()
    }

    /// Tensors of the base's files that follow from the others; see [`ModelFiles::derived_tensors`].
    pub fn kept_tensors(&self) -> Vec<(String, HostTensor)> {
        self.files.derived_tensors()
    }

    /// Every tensor's name and shape.
    pub fn shapes(&self) -> &BTreeMap<String, Vec<usize>> {
        &self.shapes
    }

    pub fn dequantized_from(&self) -> Option<String> {
        self.dequantized_from.map(|stored| stored.name().to_owned())
    }

    /// A tensor whose numbers can be read.
    pub fn open(&self, name: &str) -> Result<MergedTensor<'a>> {
        let path = name.strip_suffix(".weight").unwrap_or(name);
        let tensor = self.files.tensor(name)?;
        let is_linear = LINEAR_MODULES.iter().any(|module| path.ends_with(module.path()));
        let tensor = match name {
            _ if is_linear => convert(name, tensor, self.storage)?,
            "lm_head.weight" if self.normalized_head => normalized_rows(name, &tensor)?,
            _ => tensor,
        };
        Ok(MergedTensor { tensor, lora: self.adapter.modules.get(path) })
    }
}

fn linear_names(config: &ModelConfig) -> Vec<String> {
    let layers = 0..config.num_hidden_layers;
    layers.flat_map(|layer| LINEAR_MODULES.map(|module| format!("{}.weight", module_path(layer, module)))).collect()
}

/// One tensor of the base, and what the adapter adds to it.
pub(super) struct MergedTensor<'a> {
    tensor: HostTensor,
    lora: Option<&'a LoraMatrices>,
}

impl MergedTensor<'_> {
    /// Calls `take` with the numbers, row-major, some rows at a time.
    pub fn for_each_piece(&self, mut take: impl FnMut(&mut [f32]) -> Result<()>) -> Result<()> {
        let [rows, columns] = match self.tensor.shape[..] {
            [len] => {
                let mut numbers = dequantize(&self.tensor);
                debug_assert_eq!(numbers.len(), len);
                return take(&mut numbers);
            }
            [rows, columns] => [rows, columns],
            ref shape => return Err(EngineError::internal(format!("a weight has the shape {shape:?}"))),
        };
        let piece = (PIECE_NUMBERS / (columns * ROW_UNIT)).max(1) * ROW_UNIT;
        let mut numbers = vec![0.0; piece.min(rows) * columns];
        for first in (0..rows).step_by(piece) {
            let numbers = &mut numbers[..piece.min(rows - first) * columns];
            self.read(first, columns, numbers);
            take(numbers)?;
        }
        Ok(())
    }

    /// The whole tensor.
    pub fn numbers(&self) -> Result<Vec<f32>> {
        let mut all = Vec::with_capacity(self.tensor.shape.iter().product());
        self.for_each_piece(|numbers| {
            all.extend_from_slice(numbers);
            Ok(())
        })?;
        Ok(all)
    }

    fn read(&self, first: usize, columns: usize, out: &mut [f32]) {
        let unit = ROW_UNIT * columns;
        out.par_chunks_mut(unit).enumerate().for_each(|(index, out)| {
            let first = first + index * ROW_UNIT;
            dequantize_rows(&self.tensor, first, out);
            let Some(LoraMatrices { r, scale, a, b, .. }) = self.lora else { return };
            let (mut delta, scale) = (vec![0f32; columns], *scale as f32);
            for (row, out) in (first..).zip(out.chunks_exact_mut(columns)) {
                delta.fill(0.0);
                for (b, a) in b[row * r..(row + 1) * r].iter().zip(a.chunks_exact(columns)) {
                    delta.iter_mut().zip(a).for_each(|(delta, a)| *delta += b * a);
                }
                out.iter_mut().zip(&delta).for_each(|(out, delta)| *out += scale * delta);
            }
        });
    }
}
