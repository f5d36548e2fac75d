//! Passes over a few new tokens with kept keys and values, beside one pass over the whole sequence.

use std::sync::{Arc, Mutex};

use luthier_core::ErrorCode;
use luthier_core::generate::{CpuSequence, OpsModel, OpsSequence, Scoring, Sequence};
use luthier_core::lora::LoraAdapter;
use luthier_core::model::{
    Activations, Decoder, Keep, KeyValueCache, LogitsMemory, PackedBatch, Scratch, StepMemory, TokenExamples,
    rope_angles,
};
use luthier_core::ops::cpu::CpuOps;
use luthier_core::ops::cpu::decode::CpuDecoder;
use luthier_core::ops::cpu::decode_model::{DecodeAdapter, DecodeModel};
use luthier_core::ops::{Ops, View};

use crate::device::on_device;
use crate::golden::Golden;

fn ids(count: u32) -> Vec<u32> {
    (0..count).map(|i| (i * i * 31 + i * 7 + 5) % 288).collect()
}

/// Logits of every prefix to `tolerance`, with an adapter and without, in pieces of many sizes.
pub fn every_prefix<O: Ops>(ops: Arc<O>, case: &str, tolerance: f32) {
    let golden = Golden::open(case);
    let ops = &*ops;
    let base = golden.model(ops);
    let (config, mut ids) = (&base.config, ids(150));
    ids.iter_mut().for_each(|id| *id %= config.vocab_size as u32);
    let angles = rope_angles(ops, config, ids.len()).unwrap();
    let examples = TokenExamples { input_ids: ids.clone(), labels: vec![0; 150], offsets: vec![0, 150] };
    let mut batch = PackedBatch::new(ops, 150).unwrap();
    batch.fill(ops, &examples, &[0]).unwrap();
    batch.select_all();
    // One memory for both adapters: it grows with the second.
    let mut step = StepMemory::new(ops, config, 64).unwrap();
    let mut head = LogitsMemory::new(ops, config, 150).unwrap();
    let trained = LoraAdapter::from_peft(ops, config, &golden.adapter("init_adapter")).unwrap();
    for adapter in [LoraAdapter::empty(ops, config).unwrap(), trained] {
        let decoder = Decoder { ops, base: &base, adapter: &adapter, angles: &angles, dropout: None, noise: None };
        let mut activations = Activations::new(ops, config, &adapter.layout, 150, Keep::Nothing).unwrap();
        let mut scratch = Scratch::new(ops, config, &adapter.layout, 150, false).unwrap();
        decoder.forward(&batch, &mut activations, &mut scratch).unwrap();
        let whole = activations.hidden(config.num_hidden_layers);
        let (mut expected, mut found) = (Vec::new(), Vec::new());
        decoder.logits(150, View::from(whole), &mut head, &mut expected).unwrap();
        let mut expected = expected.chunks_exact(config.vocab_size);

        let mut cache = KeyValueCache::new(ops, config, 150).unwrap();
        let mut stream = ops.allocate_activations(64 * config.hidden_size).unwrap();
        for piece in [1, 1, 37, 1, 64, 3, 9, 1, 33] {
            let start = cache.len();
            decoder.extend(&ids[start..start + piece], &mut cache, &mut step, &mut stream).unwrap();
            decoder.logits(piece, View::from(&stream), &mut head, &mut found).unwrap();
            for (row, found) in found.chunks_exact(config.vocab_size).enumerate() {
                let expected = expected.next().unwrap();
                let largest = expected.iter().fold(0f32, |largest, logit| largest.max(logit.abs()));
                assert!(largest > 0.01, "logits of nothing test nothing");
                for (found, expected) in found.iter().zip(expected) {
                    let off = (found - expected).abs();
                    assert!(
                        off <= tolerance * largest,
                        "{case}, position {}: off by {off:e} of {largest}",
                        start + row
                    );
                }
            }
        }
        assert!(cache.len() == 150 && expected.next().is_none());
    }
}

#[test]
fn every_prefix_has_the_logits_of_the_whole_pass() {
    for case in ["tied", "untied", "sliding"] {
        // Both sides were rounded to f32 in the end.
        every_prefix(Arc::new(CpuOps::<f64>::new(2)), case, 1e-6);
    }
}

#[test]
fn every_prefix_in_single_precision_with_grouped_heads() {
    on_device!(every_prefix("tied", 1e-4));
}

#[test]
fn every_prefix_in_single_precision_with_an_output_layer_of_its_own() {
    on_device!(every_prefix("untied", 1e-4));
}

#[test]
fn every_prefix_in_single_precision_with_a_sliding_window() {
    on_device!(every_prefix("sliding", 1e-4));
}

fn log_probabilities(sequence: Box<dyn Sequence>, ids: Vec<u32>) -> Vec<f32> {
    let mut scoring = Scoring::new(sequence, ids, 0).unwrap();
    loop {
        if let Some(scores) = scoring.advance().unwrap() {
            return scores.logprobs;
        }
    }
}

/// More tokens than one piece of either device.
fn long_scores<O: Ops>(ops: Arc<O>, case: &str) {
    let golden = Golden::open(case);
    let (base, peft) = (golden.model(&*ops), golden.adapter("init_adapter"));
    let adapter = Arc::new(LoraAdapter::from_peft(&*ops, &base.config, &peft).unwrap());
    let model = Arc::new(OpsModel::new(ops, base).unwrap());
    let decode = Arc::new(DecodeModel::new(&golden.model(&CpuOps::new(1))));
    let decode_adapter = Arc::new(DecodeAdapter::new(decode.config(), &peft));
    let decoder = Arc::new(Mutex::new(CpuDecoder::new(2)));
    // The longer one second: what sequences share must grow.
    for count in [3, 511] {
        let on_processor = CpuSequence::new(decoder.clone(), decode.clone(), Some(decode_adapter.clone()));
        let expected = log_probabilities(Box::new(on_processor), ids(count));
        let by_operations = OpsSequence::new(model.clone(), Some(adapter.clone()));
        let found = log_probabilities(Box::new(by_operations), ids(count));
        assert_eq!(found.len(), count as usize);
        for (position, (found, expected)) in found.iter().zip(&expected).enumerate().skip(1) {
            assert!((found - expected).abs() < 1e-4, "{count} ids, position {position}: {found}, expected {expected}");
        }
    }
}

#[test]
fn scores_of_many_pieces_equal_those_of_the_processor() {
    on_device!(long_scores("tied"));
}

#[test]
fn scores_of_many_pieces_within_a_sliding_window_equal_those_of_the_processor() {
    on_device!(long_scores("sliding"));
}

#[test]
fn a_sequence_that_does_not_fit_is_refused_with_numbers_and_others_go_on() {
    let golden = Golden::open("tied");
    let ops = Arc::new(CpuOps::<f32>::new(1));
    let model = Arc::new(OpsModel::new(ops.clone(), golden.model(&*ops)).unwrap());
    let mut huge = OpsSequence::new(model.clone(), None);
    huge.reserve(1 << 42);
    let before = ops.memory().allocated_bytes;
    let error = huge.prefill(&[1]).unwrap_err();
    assert_eq!(error.code, ErrorCode::OutOfMemory);
    // Two blocks with two heads of eight keys.
    let numbers = (1u64 << 42) * 32;
    assert!(error.message.contains(&format!("values of {} tokens", 1u64 << 42)), "{error}");
    assert!(error.message.contains(&format!("{numbers} numbers")), "{error}");
    assert_eq!(ops.memory().allocated_bytes, before, "nothing stays of it");
    assert_eq!(log_probabilities(Box::new(OpsSequence::new(model, None)), vec![1, 2, 3]).len(), 3);
}

#[test]
fn tokens_beyond_the_room_are_refused_and_change_nothing() {
    let golden = Golden::open("tied");
    let ops = Arc::new(CpuOps::<f32>::new(1));
    let model = Arc::new(OpsModel::new(ops.clone(), golden.model(&*ops)).unwrap());
    let mut sequence = OpsSequence::new(model, None);
    sequence.reserve(4);
    sequence.prefill(&[1, 2, 3]).unwrap();
    let mut logits = Vec::new();
    for ids in [&[4, 5][..], &[]] {
        assert_eq!(sequence.prefill(ids).unwrap_err().code, ErrorCode::Internal);
    }
    assert_eq!(sequence.len(), 3);
    sequence.decode(4, &mut logits).unwrap();
    assert_eq!((sequence.len(), logits.len()), (4, 288));
    assert_eq!(sequence.logits(0..2, &mut logits).unwrap_err().code, ErrorCode::Internal);
}
