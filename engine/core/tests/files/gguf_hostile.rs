//! GGUF files that are cut, contradictory or made to hurt. Each must be refused quickly, with the path in the message, and without a panic.

use std::path::Path;
use std::time::{Duration, Instant};

use luthier_core::{ErrorCode, load};

use crate::support::{Folder, Gguf, Meta, TinyModel, refused};

fn corrupt(folder: &Folder, name: &str, bytes: &[u8]) -> String {
    let path = folder.file(name, bytes);
    let begin = Instant::now();
    let error = refused(&path);
    assert!(begin.elapsed() < Duration::from_secs(2), "{name} took {:?}", begin.elapsed());
    assert_eq!(error.code, ErrorCode::ModelCorrupt, "{name}: {error}");
    assert!(error.message.contains(path.to_str().unwrap()), "{name}: {error}");
    error.message
}

fn tiny() -> Gguf {
    TinyModel::new(true).gguf()
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let folder = Folder::new("cut");
    let bytes = tiny().bytes();
    // The padding behind the last tensor may be missing.
    let last = bytes.len() - 32;
    for length in (0..last).step_by(97).chain([0, 1, 4, 8, 16, 24, last - 1]) {
        corrupt(&folder, "cut.gguf", &bytes[..length]);
    }
}

#[test]
fn flipped_bits_never_panic() {
    let folder = Folder::new("flipped");
    let bytes = tiny().bytes();
    let mut state = 12345u32;
    let header = 4000;
    for _ in 0..3000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let mut changed = bytes.clone();
        changed[(state >> 3) as usize % header] ^= 1 << (state & 7);
        let path = folder.file("flipped.gguf", &changed);
        // Many flips are harmless (a token's text); the others must be errors. Reading the metadata must hold up as well.
        if let Ok(files) = load::open(&path) {
            let _ = files.metadata();
        }
    }
}

#[test]
fn another_kind_of_file_is_named() {
    let folder = Folder::new("kind");
    let message = corrupt(&folder, "a.gguf", b"PK\x03\x04 this is an archive");
    assert!(message.contains("expected the bytes `GGUF`"), "{message}");
    let mut swapped = tiny();
    swapped.version = 3u32.swap_bytes();
    let error = refused(&folder.file("b.gguf", &swapped.bytes()));
    assert_eq!(error.code, ErrorCode::ModelUnsupported);
    assert!(error.message.contains("big-endian"), "{error}");
    let error = refused(Path::new("/nowhere/at/all.gguf"));
    assert_eq!(error.code, ErrorCode::ModelNotFound);
}

#[test]
fn alignments_that_are_no_power_of_two_are_refused() {
    let folder = Folder::new("alignment");
    for alignment in [0, 3, 1 << 30] {
        let mut gguf = tiny();
        gguf.set("general.alignment", Meta::U32(alignment));
        let message = corrupt(&folder, "a.gguf", &gguf.bytes());
        assert!(message.contains("general.alignment"), "{message}");
    }
}

#[test]
fn counts_beyond_the_file_reserve_nothing() {
    let folder = Folder::new("counts");
    let bytes = tiny().bytes();
    for position in [8, 16] {
        for count in [u64::MAX, 1 << 60, 1 << 30] {
            let mut changed = bytes.clone();
            changed[position..position + 8].copy_from_slice(&count.to_le_bytes());
            corrupt(&folder, "counts.gguf", &changed);
        }
    }
    // An array, a string and a nest of arrays that claim more than the file has.
    let array = |kind: u32, count: u64| Meta::Raw(9, [kind.to_le_bytes().as_slice(), &count.to_le_bytes()].concat());
    let nest = Meta::Raw(9, [9u32.to_le_bytes().as_slice(), &1u64.to_le_bytes()].concat().repeat(1000));
    for value in
        [array(0, 1 << 30), array(8, u64::MAX), array(12, 1 << 61), Meta::Raw(8, u64::MAX.to_le_bytes().to_vec()), nest]
    {
        let mut gguf = tiny();
        gguf.metadata.insert(0, ("x".to_owned(), value));
        corrupt(&folder, "value.gguf", &gguf.bytes());
    }
}

#[test]
fn products_of_dimensions_do_not_wrap() {
    let folder = Folder::new("wrap");
    for shape in [vec![1 << 32, 1 << 32], vec![1 << 33, 1 << 31], vec![u64::MAX, 2], vec![0, 32], vec![1 << 62, 32]] {
        let mut gguf = tiny();
        gguf.tensor("blk.0.ffn_up.weight").shape = shape;
        corrupt(&folder, "wrap.gguf", &gguf.bytes());
    }
}

#[test]
fn tensors_lie_inside_the_file_and_apart() {
    let folder = Folder::new("places");
    for (offset, part) in
        [(u64::MAX - 31, "file ends"), (1 << 40, "file ends"), (7, "not a multiple of 32"), (0, "overlap")]
    {
        let mut gguf = tiny();
        gguf.moved.insert("blk.1.ffn_up.weight".to_owned(), offset);
        let message = corrupt(&folder, "place.gguf", &gguf.bytes());
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn doubled_names_and_wrong_value_types_are_refused() {
    let folder = Folder::new("doubled");
    let mut gguf = tiny();
    let key = gguf.metadata[2].clone();
    gguf.metadata.push(key);
    assert!(corrupt(&folder, "key.gguf", &gguf.bytes()).contains("occurs twice"));
    let mut gguf = tiny();
    let tensor = gguf.tensors[0].clone();
    gguf.tensors.push(tensor);
    assert!(corrupt(&folder, "tensor.gguf", &gguf.bytes()).contains("occurs twice"));
    for (key, value) in [
        ("llama.block_count", Meta::text("two")),
        ("llama.block_count", Meta::U32(0)),
        ("llama.block_count", Meta::U32(u32::MAX)),
        ("llama.attention.head_count", Meta::U32(0)),
        ("llama.attention.head_count_kv", Meta::U32(3)),
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(f32::NAN)),
        ("llama.vocab_size", Meta::U32(95)),
        ("tokenizer.ggml.eos_token_id", Meta::U32(96)),
        ("general.architecture", Meta::Raw(8, [2u64.to_le_bytes().as_slice(), &[0xff, 0xfe]].concat())),
    ] {
        let mut gguf = tiny();
        gguf.set(key, value);
        let message = corrupt(&folder, "type.gguf", &gguf.bytes());
        let short = key.rsplit('.').next().unwrap();
        let known = message.contains(short)
            || message.contains("num_")
            || message.contains("rms_norm_eps")
            || message.contains("end-of-sequence");
        assert!(known, "{key}: {message}");
    }
}

#[test]
fn a_tokenizer_that_contradicts_itself_is_refused() {
    let folder = Folder::new("tokenizer");
    let mut gguf = tiny();
    gguf.set("tokenizer.ggml.token_type", Meta::I32s(vec![1; 5]));
    let files = load::open(&folder.file("a.gguf", &gguf.bytes())).unwrap();
    let error = files.metadata().unwrap_err();
    assert_eq!(error.code, ErrorCode::ModelCorrupt);
    assert!(error.message.contains("has 5 entries, expected one for each of 96 tokens"), "{error}");
}
