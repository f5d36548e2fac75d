//! The decoder as a whole.

use std::cell::RefCell;

use luthier_core::model::{Dropout, TokenExamples};

use super::differences::check;
use super::model::{Computation, DROPOUT, examples, examples_within, few_labels};

/// Every matrix of the adapter, through all blocks, the norms and the output layer.
fn against_differences(case: &str, window: Option<usize>, dropout: Option<Dropout>, examples: &TokenExamples) {
    let mut computation = Computation::<f64> { dropout, ..Computation::new(case) };
    computation.base.config.sliding_window = window;
    let scale = 0.125;
    let parameters = computation.parameters();
    let (_, gradient) = computation.run(examples, &[0, 1, 2], scale);
    // A matrix at a time, so that each is sampled.
    let ranges: Vec<_> = computation
        .adapter
        .layout
        .modules()
        .flat_map(|module| {
            let r = module.r;
            [
                module.a_offset..module.a_offset + r * module.in_features,
                module.b_offset..module.b_offset + r * module.out_features,
            ]
        })
        .collect();
    let computation = RefCell::new(computation);
    for range in ranges {
        let name = format!("{case}, window {window:?}, parameters {range:?}");
        let (input, found) = (parameters[range.clone()].to_vec(), gradient[range.clone()].to_vec());
        check(&name, &[input], &[found], |inputs| {
            let mut moved = parameters.clone();
            moved[range.clone()].copy_from_slice(&inputs[0]);
            computation.borrow_mut().set_parameters(&moved);
            scale * computation.borrow().run(examples, &[0, 1, 2], scale).0
        });
    }
}

#[test]
fn tied_with_grouped_heads() {
    against_differences("tied", None, None, &examples());
}

#[test]
fn untied_with_some_targets() {
    against_differences("untied", None, None, &examples());
}

#[test]
fn with_dropout() {
    against_differences("tied", None, Some(DROPOUT), &examples());
}

#[test]
fn with_a_sliding_window() {
    against_differences("tied", Some(5), None, &examples());
}

#[test]
fn with_few_labels() {
    against_differences("tied", None, None, &few_labels());
    against_differences("untied", Some(3), Some(DROPOUT), &few_labels());
}

#[test]
fn of_families() {
    for case in ["families/linear", "families/qwen3", "families/baichuan-13b", "families/chatglm3"] {
        against_differences(case, None, None, &examples_within(64));
    }
}

/// Examples side by side in one batch never see each other, whatever their order.
#[test]
fn packed_equals_unpacked() {
    let windows = [1, 2, 5, 100].map(|window| ("tied", Some(window)));
    for (case, window) in [("tied", None), ("untied", None), ("families/qwen3", None), ("families/baichuan-13b", None)]
        .into_iter()
        .chain(windows)
    {
        let mut computation = Computation::<f64>::new(case);
        computation.base.config.sliding_window = window;
        let examples = examples_within(computation.base.config.vocab_size);
        let (loss, gradient) = computation.run(&examples, &[0, 1, 2], 1.0);
        let (mut sum, mut sums) = (0.0, vec![0.0; gradient.len()]);
        for index in 0..3 {
            let (loss, gradient) = computation.run(&examples, &[index], 1.0);
            sum += loss;
            sums.iter_mut().zip(&gradient).for_each(|(sum, value)| *sum += value);
        }
        let (turned, turned_gradient) = computation.run(&examples, &[2, 0, 1], 1.0);
        for (found, found_gradient) in [(sum, &sums), (turned, &turned_gradient)] {
            assert!((loss - found).abs() < 1e-11, "{loss} {found}");
            for (a, b) in gradient.iter().zip(found_gradient) {
                assert!((a - b).abs() < 1e-11, "{a} {b}");
            }
        }
    }
}
