//! What the device says of its memory, and what happens where there is none left.

use luthier_core::ErrorCode;
use luthier_core::ops::cuda::{CudaOps, NumberType};
use luthier_core::ops::{Ops, ViewMut};

use crate::compare::read;

#[test]
fn memory_is_counted_and_given_back_and_too_much_is_refused() {
    let ordinal = std::env::var("LUTHIER_TEST_GPU").map_or(0, |text| text.parse().unwrap());
    let ops = CudaOps::open(ordinal, NumberType::BF16).unwrap();
    let before = ops.memory().allocated_bytes;
    let single = ops.allocate(1000).unwrap();
    let short = ops.allocate_activations(1000).unwrap();
    assert_eq!(ops.memory().allocated_bytes - before, 6000);
    drop((single, short));
    assert_eq!(ops.memory().allocated_bytes, before);
    assert_eq!(ops.memory().peak_allocated_bytes - before, 6000);

    let (_, total) = ops.describe().unwrap();
    let error = ops.allocate(total as usize).err().unwrap();
    assert_eq!(error.code, ErrorCode::OutOfMemory);
    assert!(error.message.contains(&format!("allocating {} bytes", 4 * total)), "{}", error.message);
    // The device goes on.
    let mut buffer = ops.allocate(4).unwrap();
    ops.write(&[1.0, 2.0, 3.0, 4.0], ViewMut::from(&mut buffer)).unwrap();
    assert_eq!(read(&ops, &buffer, 4), [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_in_words() {
    let error = CudaOps::open(4711, NumberType::F32).err().unwrap();
    assert!(error.message.contains("GPU 4711"), "{}", error.message);
}
