//! Passes whose last block computes labelled rows alone, beside passes that compute all rows, on any device.

use std::sync::Arc;

use luthier_core::lora::{LoraAdapter, LoraLayout, LoraTargets, LowRank};
use luthier_core::model::{
    Activations, BaseModel, Decoder, Dropout, Examples, HeadScratch, IGNORED_LABEL, Keep, LinearModule, PackedBatch,
    Scratch, TensorSource, TokenExamples, rope_angles,
};
use luthier_core::ops::{Element, Ops, View, ViewMut};
use luthier_core::random::MersenneTwister;
use luthier_core::{HostTensor, ModelConfig, Result, StoredType, TensorBytes, WeightStorage};

use crate::random_model::{RandomModel, Shape};

const VOCABULARY: usize = 64;
/// One sequence has no row that could have a label.
const LENGTHS: [usize; 4] = [9, 1, 30, 17];
/// Grouped heads; a single block; attention wider than the MLP.
const SHAPES: [Shape; 3] =
    [[3, 4, 2, 16, 32, 96, VOCABULARY], [1, 2, 2, 16, 32, 64, VOCABULARY], [2, 6, 2, 16, 32, 64, VOCABULARY]];
const DROPOUT: Dropout = Dropout { probability: 0.3, seed: 5, micro_batch: 2 };

/// Random weights but for norms, which are ones, so that gradients stay large enough for short types.
struct Model(RandomModel);

impl TensorSource for Model {
    fn config(&self) -> &ModelConfig {
        &self.0.config
    }

    fn tensor(&self, name: &str) -> Result<HostTensor> {
        if !name.ends_with("norm.weight") {
            return self.0.tensor(name);
        }
        let width = self.0.config.hidden_size;
        let bytes: Vec<u8> = std::iter::repeat_n(1f32.to_le_bytes(), width).flatten().collect();
        Ok(HostTensor::new(StoredType::F32, vec![width], TensorBytes::Owned(bytes.into())))
    }
}

fn model(shape: Shape, window: Option<usize>) -> Model {
    let mut model = RandomModel::new(shape, true, StoredType::F32, StoredType::F32);
    model.config.sliding_window = window;
    Model(model)
}

/// Sequences with labels at the positions, counted over all of them, that are `learned`.
fn examples(learned: impl Fn(usize) -> bool) -> TokenExamples {
    let rows: usize = LENGTHS.iter().sum();
    let id = |position: usize| position * 7919 % VOCABULARY;
    let label = |position| if learned(position) { id(position) as i32 } else { IGNORED_LABEL };
    let ends = LENGTHS.iter().scan(0, |end, length| {
        *end += *length as u32;
        Some(*end)
    });
    TokenExamples {
        input_ids: (0..rows).map(|position| id(position) as u32).collect(),
        labels: (0..rows).map(label).collect(),
        offsets: [0].into_iter().chain(ends).collect(),
    }
}

/// Names and examples with fewer labels than rows: one; those of the first row and of the last that can have one; a few here and there; about half.
fn partly_labelled() -> [(&'static str, TokenExamples); 4] {
    [
        ("one label", examples(|position| position == 23)),
        ("first and last", examples(|position| position == 1 || position == 56)),
        ("a few", examples(|position| position % 11 == 4)),
        ("the ends", examples(|position| position % 20 > 9)),
    ]
}

/// With numbers in all its matrices, so that no gradient is zero.
fn adapter<O: Ops>(ops: &O, model: &Model, chosen: impl Fn(usize, LinearModule) -> bool) -> LoraAdapter<O> {
    let layout =
        LoraLayout::new(model.config(), |layer, module| chosen(layer, module).then_some(LowRank { r: 3, scale: 2.0 }));
    let mut random = MersenneTwister::new(9);
    let values: Vec<O::Elem> =
        (0..layout.len()).map(|_| O::Elem::from_f64(f64::from(random.uniform_f32(0.3)))).collect();
    let mut parameters = ops.allocate(layout.len()).unwrap();
    ops.write(&values, ViewMut::from(&mut parameters)).unwrap();
    LoraAdapter {
        layout: Arc::new(layout),
        r: 3,
        lora_alpha: 6.0,
        targets: LoraTargets::default(),
        lora_dropout: 0.0,
        use_rslora: false,
        parameters,
    }
}

struct Setting<'a, O: Ops> {
    ops: &'a O,
    base: &'a BaseModel<O>,
    adapter: &'a LoraAdapter<O>,
    dropout: Option<Dropout>,
    grad_scale: f64,
}

/// Rows after the last block, losses (with and without a backward pass) and gradients.
#[derive(Debug, PartialEq)]
struct Outcome {
    rows: usize,
    losses: [f64; 2],
    gradients: Vec<f64>,
}

impl<O: Ops> Setting<'_, O> {
    fn pass(&self, examples: &TokenExamples, keep: Keep, all_rows: bool) -> Outcome {
        let Self { ops, base, adapter, dropout, grad_scale } = *self;
        let (config, layout, rows) = (&base.config, &*adapter.layout, examples.input_ids.len());
        let mut batch = PackedBatch::new(ops, rows).unwrap();
        let mut activations = Activations::new(ops, config, layout, rows, keep).unwrap();
        let scratch = Scratch::new(ops, config, layout, rows, true).unwrap();
        let mut scratch = scratch.with_dropout(ops, layout, rows).unwrap();
        let mut head = HeadScratch::new(ops, config, rows).unwrap();
        let mut gradients = ops.allocate(layout.len()).unwrap();
        let angles = rope_angles(ops, config, rows).unwrap();
        let decoder = Decoder { ops, base, adapter, angles: &angles, dropout, noise: None };
        // What an earlier, larger batch leaves in the memory must not matter.
        let order: [&[u32]; 2] = [&[2, 0, 1, 3], &[0, 1, 2, 3]];
        let mut losses = [0.0; 2];
        for indices in order {
            batch.fill(ops, examples, indices).unwrap();
            if all_rows || indices[0] == 2 {
                batch.select_all();
            }
            decoder.forward(&batch, &mut activations, &mut scratch).unwrap();
            losses[0] = decoder.loss(&batch, &activations, &mut scratch, &mut head, None).unwrap();
            losses[1] = decoder.loss(&batch, &activations, &mut scratch, &mut head, Some(grad_scale)).unwrap();
            ops.zero(ViewMut::from(&mut gradients), layout.len()).unwrap();
            decoder.backward(&batch, &mut activations, &mut scratch, &mut gradients).unwrap();
        }
        let mut values = vec![O::Elem::from_f64(0.0); layout.len()];
        ops.read(View::from(&gradients), &mut values).unwrap();
        let gradients = values.iter().map(|value| value.to_f64()).collect();
        Outcome { rows: batch.output_rows(), losses, gradients }
    }

    /// The loss relative to itself, each matrix's gradient relative to its largest number.
    fn compare(&self, what: &str, examples: &TokenExamples, tolerance: f64) {
        let [all, found] = [true, false].map(|all_rows| self.pass(examples, Keep::ALL, all_rows));
        let labels = (0..examples.len()).map(|index| examples.label_count(index)).sum();
        assert_eq!([all.rows, found.rows], [examples.input_ids.len(), labels], "{what}");
        for (found, expected) in found.losses.iter().zip(&all.losses) {
            assert!(*expected > 1.0 && (found - expected).abs() <= tolerance * expected, "{what}: {found}, {expected}");
        }
        for module in self.adapter.layout.modules() {
            let (a, b) = (module.r * module.in_features, module.out_features * module.r);
            for (half, offset, len) in [("A", module.a_offset, a), ("B", module.b_offset, b)] {
                let (found, expected) = (&found.gradients[offset..][..len], &all.gradients[offset..][..len]);
                let largest = expected.iter().fold(0f64, |largest, value| largest.max(value.abs()));
                let off = found.iter().zip(expected).fold(0f64, |off, (a, b)| off.max((a - b).abs()));
                let path = module.path();
                assert!(largest > 0.0, "{what}, {path} {half}: a gradient of zeros tests nothing");
                assert!(off <= tolerance * largest, "{what}, {path} {half}: off by {off:e} of {largest:e}");
            }
        }
    }
}

/// Loss and gradients of labelled rows alone are those of all rows, to `tolerance`.
pub fn the_same_loss_and_gradients<O: Ops>(ops: &O, grad_scale: f64, tolerance: f64) {
    for shape in SHAPES {
        for window in [None, Some(4)] {
            let model = model(shape, window);
            let base = &BaseModel::load(ops, &model, WeightStorage::Stored).unwrap();
            let last = shape[0] - 1;
            let after_attention = [LinearModule::Output, LinearModule::Gate, LinearModule::Up, LinearModule::Down];
            let whole = adapter(ops, &model, |_, _| true);
            // Nothing below the last block is learned, so that its input needs no gradient.
            let top = adapter(ops, &model, |layer, _| layer == last);
            // Masks cover the rows that are computed: these draw the same ones either way.
            let below = adapter(ops, &model, |layer, module| layer < last || !after_attention.contains(&module));
            for (adapter, dropout) in [(&whole, None), (&top, None), (&below, Some(DROPOUT))] {
                for (name, examples) in partly_labelled() {
                    let what = format!("{name}, {shape:?}, window {window:?}, {dropout:?}");
                    Setting { ops, base, adapter, dropout, grad_scale }.compare(&what, &examples, tolerance);
                }
            }
        }
    }
}

/// Whatever is kept, recomputed or parked: the same bits.
pub fn the_same_whatever_is_kept<O: Ops>(ops: &O) {
    for shape in SHAPES {
        let model = model(shape, None);
        let base = &BaseModel::load(ops, &model, WeightStorage::Stored).unwrap();
        let adapter = &adapter(ops, &model, |_, _| true);
        for dropout in [None, Some(DROPOUT)] {
            let setting = Setting { ops, base, adapter, dropout, grad_scale: 1.0 };
            for (name, examples) in partly_labelled() {
                let expected = setting.pass(&examples, Keep::ALL, false);
                assert!(expected.rows < examples.input_ids.len());
                for recomputed in 1..=shape[0] + 1 {
                    for offload in [false, true] {
                        let found = setting.pass(&examples, Keep::AllBut { recomputed, offload }, false);
                        assert!(
                            found == expected,
                            "{name}, {shape:?}, {dropout:?}: {recomputed} recomputed, offload {offload}"
                        );
                    }
                }
            }
        }
    }
}

/// Where nearly all rows have a label nothing is selected: asking for all rows changes no bit.
pub fn all_labels_select_nothing<O: Ops>(ops: &O) {
    let model = model(SHAPES[0], None);
    let base = &BaseModel::load(ops, &model, WeightStorage::Stored).unwrap();
    let adapter = &adapter(ops, &model, |_, _| true);
    // The last row of a sequence has none: three of 57, of which one is a sequence of its own.
    let rows: usize = LENGTHS.iter().sum();
    let examples = TokenExamples { offsets: vec![0, 0, 1, 30, rows as u32], ..examples(|_| true) };
    let setting = Setting { ops, base, adapter, dropout: Some(DROPOUT), grad_scale: 1.0 };
    let found = setting.pass(&examples, Keep::ALL, false);
    assert!(found == setting.pass(&examples, Keep::ALL, true));
    assert_eq!(found.rows, rows);
}
