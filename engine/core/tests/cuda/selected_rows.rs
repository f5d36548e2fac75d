//! The last block over labelled rows alone, in every type.

use luthier_core::ops::cuda::NumberType;

use crate::compare::open;

#[path = "../shared/selected_rows.rs"]
mod shared;

#[test]
fn the_same_loss_and_gradients() {
    // f16 would lose the smallest gradients of an unscaled loss. In 16 bits, sums in another order round small differences of large numbers
    // differently; a row in a wrong place is wrong by as much as there is.
    for (kind, grad_scale, tolerance) in
        [(NumberType::F32, 1.0, 1e-5), (NumberType::F16, 1024.0, 3e-2), (NumberType::BF16, 1.0, 0.1)]
    {
        shared::the_same_loss_and_gradients(&open(kind), grad_scale, tolerance);
    }
}

#[test]
fn what_is_kept_changes_no_bit() {
    for kind in [NumberType::F32, NumberType::BF16] {
        shared::the_same_whatever_is_kept(&open(kind));
    }
}

#[test]
fn all_labels_select_nothing() {
    shared::all_labels_select_nothing(&open(NumberType::BF16));
}
