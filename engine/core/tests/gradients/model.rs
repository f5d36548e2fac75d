//! The tiny models of the golden files with their adapters: loss and gradients of a packed batch.

use std::path::PathBuf;

use luthier_core::WeightStorage;
use luthier_core::load;
use luthier_core::lora::LoraAdapter;
use luthier_core::lora::peft::{PeftAdapter, read_adapter};
use luthier_core::model::{
    Activations, BaseModel, Decoder, Dropout, HeadScratch, IGNORED_LABEL, Keep, PackedBatch, Scratch, TokenExamples,
    rope_angles,
};
use luthier_core::ops::Ops;
use luthier_core::ops::cpu::{CpuOps, Real};

/// Over `tied`, an adapter of ranks and factors that differ between layers that share an input.
pub const PATTERNS: &str = "tied with adapters/patterns";

/// Of the case's model; what stands behind `with` is the adapter's.
pub fn folder(case: &str) -> PathBuf {
    let model = case.split_once(" with ").map_or(case, |(model, _)| model);
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../test/parity/golden").join(model)
}

pub fn peft(case: &str) -> PeftAdapter {
    let files = load::open(&folder(case).join("model")).unwrap();
    let adapter = match case.split_once(" with ") {
        Some((model, adapter)) => folder(model).join("..").join(adapter),
        None => folder(case).join("init_adapter"),
    };
    read_adapter(&adapter, files.config(), None).unwrap().0
}

/// Three examples with labels in places.
pub fn examples() -> TokenExamples {
    examples_within(256)
}

/// The same for a smaller vocabulary: ids beyond it begin anew.
pub fn examples_within(vocabulary: usize) -> TokenExamples {
    let lists: [&[u32]; 3] = [&[5, 200, 13, 77, 9, 31, 150], &[250, 8, 8], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]];
    let mut examples = TokenExamples { offsets: vec![0], ..TokenExamples::default() };
    for ids in lists {
        let ids: Vec<u32> = ids.iter().map(|id| id % vocabulary as u32).collect();
        examples.input_ids.extend(&ids);
        examples.labels.extend(ids.iter().enumerate().map(|(at, id)| if at % 3 == 1 { -100 } else { *id as i32 }));
        examples.offsets.push(examples.input_ids.len() as u32);
    }
    examples
}

/// The same with three labels, of the first row and of two others, and none in the second sequence.
pub fn few_labels() -> TokenExamples {
    let mut examples = examples();
    let learned = [1, 5, 20];
    let unlearned = (0..examples.labels.len()).filter(|position| !learned.contains(position));
    unlearned.for_each(|position| examples.labels[position] = IGNORED_LABEL);
    examples
}

/// A model with an adapter and room for all examples.
pub struct Computation<E: Real> {
    pub ops: CpuOps<E>,
    pub base: BaseModel<CpuOps<E>>,
    pub adapter: LoraAdapter<CpuOps<E>>,
    pub dropout: Option<Dropout>,
}

/// Masks that stay the same from call to call.
pub const DROPOUT: Dropout = Dropout { probability: 0.3, seed: 5, micro_batch: 2 };

impl<E: Real> Computation<E>
where
    CpuOps<E>: Ops<Elem = E>,
{
    pub fn new(case: &str) -> Self {
        let ops = CpuOps::<E>::new(2);
        let base =
            BaseModel::load(&ops, &*load::open(&folder(case).join("model")).unwrap(), WeightStorage::Stored).unwrap();
        let adapter = LoraAdapter::from_peft(&ops, &base.config, &peft(case)).unwrap();
        Self { ops, base, adapter, dropout: None }
    }

    pub fn parameters(&self) -> Vec<f64> {
        self.read(&self.adapter.parameters)
    }

    pub fn set_parameters(&mut self, values: &[f64]) {
        let values: Vec<E> = values.iter().map(|value| E::from_f64(*value)).collect();
        self.ops.write(&values, (&mut self.adapter.parameters).into()).unwrap();
    }

    fn read(&self, buffer: &<CpuOps<E> as Ops>::Buffer) -> Vec<f64> {
        let mut values = vec![E::from_f64(0.0); self.adapter.layout.len()];
        self.ops.read(buffer.into(), &mut values).unwrap();
        values.iter().map(|value| value.to_f64()).collect()
    }

    /// Σ cross-entropy of the examples with these numbers as one batch, and the gradient of `scale` times it.
    pub fn run(&self, examples: &TokenExamples, indices: &[u32], scale: f64) -> (f64, Vec<f64>) {
        let (ops, base) = (&self.ops, &self.base);
        let (config, layout) = (&base.config, &self.adapter.layout);
        let rows = examples.input_ids.len();
        let mut batch = PackedBatch::new(ops, rows).unwrap();
        batch.fill(ops, examples, indices).unwrap();
        let mut activations = Activations::new(ops, config, layout, rows, Keep::ALL).unwrap();
        let mut scratch = Scratch::new(ops, config, layout, rows, true).unwrap();
        if self.dropout.is_some() {
            scratch = scratch.with_dropout(ops, layout, rows).unwrap();
        }
        let mut head = HeadScratch::new(ops, config, rows).unwrap();
        let mut gradients = ops.allocate(layout.len()).unwrap();
        let angles = rope_angles(ops, config, rows).unwrap();
        let decoder =
            Decoder { ops, base, adapter: &self.adapter, angles: &angles, dropout: self.dropout, noise: None };
        decoder.forward(&batch, &mut activations, &mut scratch).unwrap();
        let loss = decoder.loss(&batch, &activations, &mut scratch, &mut head, Some(scale)).unwrap();
        decoder.backward(&batch, &mut activations, &mut scratch, &mut gradients).unwrap();
        (loss, self.read(&gradients))
    }
}
