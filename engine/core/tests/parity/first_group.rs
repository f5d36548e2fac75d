//! Loss and gradients of the first accumulation group, before any update.

use std::sync::Arc;

use luthier_core::lora::LoraAdapter;
use luthier_core::model::{Activations, Decoder, Examples, HeadScratch, Keep, PackedBatch, Scratch, rope_angles};
use luthier_core::ops::cpu::CpuOps;
use luthier_core::ops::{Element, Ops, View};
use luthier_core::train::TrainingPlan;
use safetensors::SafeTensors;

use crate::device::on_device;
use crate::golden::{Golden, close};

/// Loss to 1e-6 relative; each matrix's gradient to 1e-5 of its largest number.
fn first_group<O: Ops>(ops: Arc<O>, case: &str) {
    let golden = Golden::open(case);
    let ops = &*ops;
    let (base, examples, config) = (golden.model(ops), golden.train(), golden.config());
    let adapter = LoraAdapter::from_peft(ops, &base.config, &golden.adapter("init_adapter")).unwrap();
    let layout = &adapter.layout;
    let plan = TrainingPlan::new(&config, examples.lengths());
    let order = plan.order(0);
    let batches: Vec<&[u32]> = plan.batches(0).map(|batch| order.batch(batch)).collect();
    let labels: usize = batches.iter().copied().flatten().map(|index| examples.label_count(*index as usize)).sum();
    assert_eq!(labels as u64, golden.expected["label_tokens"].as_u64().unwrap());

    // As the trainer does it, but before anything is clipped.
    let rows = plan.largest_batch().rows;
    let angles = rope_angles(ops, &base.config, examples.longest()).unwrap();
    let decoder = Decoder { ops, base: &base, adapter: &adapter, angles: &angles, dropout: None, noise: None };
    let mut batch = PackedBatch::new(ops, rows).unwrap();
    let mut activations = Activations::new(ops, &base.config, layout, rows, Keep::ALL).unwrap();
    let mut scratch = Scratch::new(ops, &base.config, layout, rows, true).unwrap();
    let mut head = HeadScratch::new(ops, &base.config, rows).unwrap();
    let mut gradients = ops.allocate(layout.len()).unwrap();
    let mut loss = 0.0;
    for indices in batches {
        batch.fill(ops, &examples, indices).unwrap();
        decoder.forward(&batch, &mut activations, &mut scratch).unwrap();
        let scale = Some(1.0 / labels as f64);
        loss += decoder.loss(&batch, &activations, &mut scratch, &mut head, scale).unwrap();
        decoder.backward(&batch, &mut activations, &mut scratch, &mut gradients).unwrap();
    }
    close("loss", loss / labels as f64, golden.expected["loss"].as_f64().unwrap(), 1e-6);

    let mut found = vec![O::Elem::from_f64(0.0); layout.len()];
    ops.read(View::from(&gradients), &mut found).unwrap();
    let bytes = std::fs::read(golden.folder.join("grads.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(expected.len(), 2 * layout.modules().count());
    for module in layout.modules() {
        let (a, b) = (module.r * module.in_features, module.out_features * module.r);
        for (name, offset, len) in [(module.a_name(), module.a_offset, a), (module.b_name(), module.b_offset, b)] {
            let tensor = expected.tensor(&name).unwrap();
            assert_eq!(tensor.data().len(), 4 * len, "{name}");
            let numbers = tensor.data().as_chunks::<4>().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes)));
            let (mut difference, mut largest) = (0f64, 0f64);
            for (found, expected) in found[offset..offset + len].iter().zip(numbers) {
                difference = difference.max((found.to_f64() - expected).abs());
                largest = largest.max(expected.abs());
            }
            assert!(largest > 0.0, "{name}: a gradient of zeros tests nothing");
            assert!(difference <= 1e-5 * largest, "{name}: off by {difference:e} where the largest is {largest:e}");
        }
    }
}

#[test]
fn with_grouped_heads_and_tied_embeddings() {
    first_group(Arc::new(CpuOps::<f64>::new(2)), "tied");
    on_device!(first_group("tied"));
}

#[test]
fn with_a_sliding_window() {
    first_group(Arc::new(CpuOps::<f64>::new(2)), "sliding");
    on_device!(first_group("sliding"));
}

#[test]
fn with_an_output_layer_of_its_own_and_rank_stabilised_scale() {
    first_group(Arc::new(CpuOps::<f64>::new(2)), "untied");
    on_device!(first_group("untied"));
}
