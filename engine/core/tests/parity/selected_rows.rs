//! The last block over labelled rows alone; `tests/cuda` has the same in every type of the GPU.

use std::sync::Arc;

use luthier_core::ops::Ops;
use luthier_core::ops::cpu::CpuOps;

use crate::device::on_device;

#[path = "../shared/selected_rows.rs"]
mod shared;

#[test]
fn the_same_loss_and_gradients_in_double_precision() {
    shared::the_same_loss_and_gradients(&CpuOps::<f64>::new(2), 0.125, 1e-11);
}

#[test]
fn the_same_loss_and_gradients() {
    fn run<O: Ops>(ops: Arc<O>) {
        shared::the_same_loss_and_gradients(&*ops, 0.125, 1e-5);
    }
    on_device!(run());
}

#[test]
fn what_is_kept_changes_no_bit() {
    shared::the_same_whatever_is_kept(&CpuOps::<f32>::new(2));
}

#[test]
fn all_labels_select_nothing() {
    shared::all_labels_select_nothing(&CpuOps::<f32>::new(2));
}
