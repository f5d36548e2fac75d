//! Layer inputs outside the device's memory, on the processor; `tests/cuda` has the same on a GPU.

use std::sync::Arc;

use luthier_core::ops::cpu::CpuOps;

#[path = "../shared/offload.rs"]
mod shared;

#[test]
fn layer_inputs_elsewhere_change_no_number() {
    let (_, pinned) = shared::same_with_and_without(&Arc::new(CpuOps::<f32>::new(2)));
    assert_eq!(pinned, 0);
}

#[test]
fn an_embedding_table_elsewhere_changes_no_number() {
    shared::same_with_the_table_on_the_host(&Arc::new(CpuOps::<f32>::new(2)));
}

#[test]
fn the_first_place_that_is_not_finite_is_found() {
    shared::the_first_place_that_is_not_finite_is_found(&Arc::new(CpuOps::<f32>::new(2)));
}
