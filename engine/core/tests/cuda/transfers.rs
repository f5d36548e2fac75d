//! Locked host memory: copies beside the computation, and an embedding table that is read from there.

use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use luthier_core::ops::cuda::{CudaBuffer, CudaOps, NumberType};
use luthier_core::ops::{EmbeddingPlace, Ops, View, ViewMut};
use luthier_core::{HostTensor, StoredType, TensorBytes};

use crate::compare::{activations, indices, random, read};

#[path = "../shared/offload.rs"]
mod shared;

/// A product of matrices of this size takes milliseconds, as a copy of one does: what does not wait for the other finds it under way.
const SIZE: usize = 4096;

fn open(kind: NumberType) -> CudaOps {
    let ordinal = std::env::var("LUTHIER_TEST_GPU").map_or(0, |text| text.parse().unwrap());
    CudaOps::open(ordinal, kind).unwrap()
}

/// `out` = a · b, several times over.
fn long_product(ops: &CudaOps, a: &CudaBuffer, b: &CudaBuffer, out: &mut CudaBuffer) {
    for _ in 0..8 {
        let (a, b) = (View::from(a).rows(SIZE), View::from(b).rows(SIZE));
        ops.gemm(SIZE, SIZE, SIZE, 1.0, a, b, false, ViewMut::from(&mut *out).rows(SIZE)).unwrap();
    }
}

#[test]
fn a_copy_to_the_host_starts_after_what_wrote_the_buffer_and_is_not_overtaken() {
    let ops = open(NumberType::F32);
    let len = SIZE * SIZE;
    let (a, b) = (activations(&ops, &random(1, len)), activations(&ops, &random(2, len)));
    let mut out = activations(&ops, &vec![0.0; len]);
    long_product(&ops, &a, &b, &mut out);
    let expected = read(&ops, &out, len);

    let (mut parked, mut back) = (ops.allocate_parked(len).unwrap(), activations(&ops, &vec![0.0; len]));
    ops.zero(ViewMut::from(&mut out), len).unwrap();
    ops.synchronize().unwrap();
    // Written late, then overwritten at once.
    long_product(&ops, &a, &b, &mut out);
    ops.park(len, &out, &mut parked).unwrap();
    ops.zero(ViewMut::from(&mut out), len).unwrap();
    ops.fetch(len, &parked, &mut back).unwrap();
    assert!(read(&ops, &back, len) == expected, "the copy saw the buffer too early or too late");
    assert!(read(&ops, &out, len).iter().all(|value| *value == 0.0), "what was written after the copy stays");
}

#[test]
fn a_copy_from_the_host_starts_after_what_read_the_buffer_and_is_waited_for() {
    let ops = open(NumberType::F32);
    let len = SIZE * SIZE;
    let (first, other) = (random(1, len), random(3, len));
    let (mut a, b) = (activations(&ops, &first), activations(&ops, &random(2, len)));
    let mut out = activations(&ops, &vec![0.0; len]);
    long_product(&ops, &a, &b, &mut out);
    let expected = read(&ops, &out, len);

    let mut parked = ops.allocate_parked(len).unwrap();
    ops.park(len, &activations(&ops, &other), &mut parked).unwrap();
    ops.zero(ViewMut::from(&mut out), len).unwrap();
    ops.synchronize().unwrap();
    // The numbers that the products read are replaced right behind them.
    long_product(&ops, &a, &b, &mut out);
    ops.fetch(len, &parked, &mut a).unwrap();
    let rows = indices(&ops, &[SIZE as u32 - 1]);
    let mut last = activations(&ops, &vec![0.0; SIZE]);
    ops.gather_rows(View::from(&a), &rows, SIZE, ViewMut::from(&mut last)).unwrap();
    assert!(read(&ops, &last, SIZE) == other[len - SIZE..], "the operation after the copy reads what it brought");
    assert!(read(&ops, &out, len) == expected, "the products saw the numbers that were there before the copy");
    assert!(read(&ops, &a, len) == other, "the copy brought everything");
}

/// A buffer that goes back and forth many times, with work on it between: each time everything is there, in any type and where only a part of
/// the room is used.
#[test]
fn streams_that_share_two_buffers_come_back_as_they_were() {
    for kind in [NumberType::F32, NumberType::F16, NumberType::BF16] {
        let ops = open(kind);
        let (room, len, streams) = (1 << 20, (1 << 20) - 13, 9);
        let mut buffers = [ops.allocate_activations(room).unwrap(), ops.allocate_activations(room).unwrap()];
        let before = ops.memory().pinned_host_bytes;
        let mut parked: Vec<_> = (0..streams).map(|_| ops.allocate_parked(room).unwrap()).collect();
        assert_eq!(ops.memory().pinned_host_bytes - before, (streams * room * kind.bytes()) as u64);
        let values: Vec<Vec<f32>> = (0..streams).map(|stream| random(stream as u64, len)).collect();
        let sources: Vec<_> = values.iter().map(|values| activations(&ops, values)).collect();
        let row = indices(&ops, &[0]);
        for (stream, place) in parked.iter_mut().enumerate() {
            let buffer = &mut buffers[stream % 2];
            ops.gather_rows(View::from(&sources[stream]), &row, len, ViewMut::from(&mut *buffer)).unwrap();
            ops.park(len, buffer, place).unwrap();
        }
        let mut found: Vec<_> = (0..streams).map(|_| ops.allocate_activations(len).unwrap()).collect();
        for stream in (0..streams).rev() {
            for wanted in (stream.saturating_sub(1)..=stream).rev().skip(usize::from(stream + 1 < streams)) {
                ops.fetch(len, &parked[wanted], &mut buffers[wanted % 2]).unwrap();
            }
            let out = ViewMut::from(&mut found[stream]);
            ops.gather_rows(View::from(&buffers[stream % 2]), &row, len, out).unwrap();
        }
        for (stream, (found, expected)) in found.iter().zip(&values).enumerate() {
            assert!(read(&ops, found, len) == *expected, "stream {stream} of {kind:?}");
        }
        drop(parked);
        assert_eq!(ops.memory().pinned_host_bytes, before);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let ops = open(NumberType::BF16);
    let (mut parked, mut buffer) = (ops.allocate_parked(10).unwrap(), ops.allocate_activations(20).unwrap());
    assert!(ops.park(11, &buffer, &mut parked).is_err());
    assert!(ops.fetch(11, &parked, &mut buffer).is_err());
    let mut narrow = ops.allocate_activations(5).unwrap();
    assert!(ops.park(6, &narrow, &mut parked).is_err());
    assert!(ops.fetch(6, &parked, &mut narrow).is_err());
    let mut single = ops.allocate(20).unwrap();
    assert!(ops.park(10, &single, &mut parked).is_err(), "f32 is not bf16");
    assert!(ops.fetch(10, &parked, &mut single).is_err(), "f32 is not bf16");
    let error = ops.allocate_parked(1 << 50).err().unwrap();
    assert!(error.message.contains(&format!("locking {} bytes", 2u64 << 50)), "{}", error.message);
}

/// A table of 40 rows of 64 numbers.
fn table(stored: StoredType) -> HostTensor {
    let values = random(1, 40 * 64);
    let bytes: Vec<u8> = match stored {
        StoredType::BF16 => values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect(),
        StoredType::F16 => values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect(),
        // Blocks of 32: a scale in f16, then codes.
        StoredType::Ggml(GgmlDType::Q8_0) => (0..40 * 2u8)
            .flat_map(|block| {
                let scale = half::f16::from_f32(f32::from(block + 1) / 64.0).to_le_bytes();
                scale.into_iter().chain((0..32u8).map(move |code| block.wrapping_mul(37).wrapping_add(code * 5)))
            })
            .collect(),
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    };
    HostTensor::new(stored, vec![40, 64], TensorBytes::Owned(bytes.into()))
}

#[test]
fn an_embedding_table_is_read_from_the_host() {
    let ids = [39, 0, 3, 3, 17, 38];
    for kind in [NumberType::F32, NumberType::F16, NumberType::BF16] {
        let ops = open(kind);
        for stored in [StoredType::F32, StoredType::F16, StoredType::BF16, StoredType::Ggml(GgmlDType::Q8_0)] {
            let rows = |place| {
                let weight = ops.upload_embedding(table(stored), place).unwrap();
                let mut out = activations(&ops, &vec![f32::NAN; ids.len() * 64]);
                ops.embedding(&weight, &indices(&ops, &ids), ViewMut::from(&mut out)).unwrap();
                (read(&ops, &out, ids.len() * 64), ops.memory(), weight)
            };
            let (expected, on_device, weight) = rows(EmbeddingPlace::Device);
            assert_eq!(on_device.pinned_host_bytes, 0);
            drop(weight);
            let (found, on_host, weight) = rows(EmbeddingPlace::Host);
            assert_eq!(found, expected, "{} as {kind:?}", stored.name());
            assert!(found.iter().any(|value| *value != 0.0) && found.iter().all(|value| value.is_finite()));
            let bytes = on_host.pinned_host_bytes;
            assert_eq!(on_device.allocated_bytes - on_host.allocated_bytes, bytes, "the table left the device");
            // The table as it is stored: 34 bytes for 32 numbers at least.
            assert!(bytes >= 40 * 64 * 34 / 32);
            drop(weight);
            assert_eq!(ops.memory().pinned_host_bytes, 0);
        }
    }
}

#[test]
fn layer_inputs_on_the_host_change_no_number() {
    for kind in [NumberType::F32, NumberType::BF16] {
        let (saved, pinned) = shared::same_with_and_without(&Arc::new(open(kind)));
        // The largest micro-batch of the tiny model, whose six blocks are all recomputed.
        let [rows, hidden, query, key_value, heads, blocks] = [17, 48, 64, 64, 4, 6];
        let number = kind.bytes() as i64;
        let results = key_value + query + hidden;
        assert_eq!(pinned as i64, blocks * rows * (hidden + results) * number, "{kind:?}");
        // Two buffers stay for the layer inputs, others come for results that are on their way; each block keeps its sums.
        let expected = rows * ((blocks - 2) * hidden * number - results * number - blocks * heads * 4);
        assert_eq!(saved, expected, "{kind:?}");
    }
}

#[test]
fn an_embedding_table_on_the_host_changes_no_number() {
    for kind in [NumberType::F32, NumberType::BF16] {
        shared::same_with_the_table_on_the_host(&Arc::new(open(kind)));
    }
}

#[test]
fn the_first_place_that_is_not_finite_is_found() {
    shared::the_first_place_that_is_not_finite_is_found(&Arc::new(open(NumberType::BF16)));
}
