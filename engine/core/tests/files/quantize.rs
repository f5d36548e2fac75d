//! Models quantized ahead: read back to the same bytes, in one file and in shards; what cannot be quantized is refused.

use std::path::{Path, PathBuf};

use luthier_core::quant::convert;
use luthier_core::quantize::{QuantizeProgress, QuantizeRequest, quantize};
use luthier_core::{ErrorCode, Result, WeightStorage, load};
use serde_json::Value;

use crate::allocations::peak_of;
use crate::support::{Folder, TinyModel, numbers};

const TYPES: [WeightStorage; 3] =
    [WeightStorage::Int8, WeightStorage::Nf4 { double_quant: false }, WeightStorage::Nf4 { double_quant: true }];

fn base(folder: &Folder) {
    folder.file("config.json", TinyModel::new(false).config_json().to_string().as_bytes());
    folder.file("model.safetensors", &TinyModel::new(false).safetensors(|_| true));
    folder.file("tokenizer.json", b"{}");
    folder.file("notes.txt", b"not copied");
}

fn run(base: &Path, to: &Path, storage: WeightStorage, shard_bytes: u64) -> Result<u64> {
    quantize(&QuantizeRequest { base, storage, shard_bytes }, to, &mut |_| true)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    names
}

#[test]
fn what_was_written_is_read_back_to_the_same_bytes() {
    let from = Folder::new("quantize-from");
    base(&from);
    let source = load::open(&from.0).unwrap();
    for storage in TYPES {
        let mut hashes = Vec::new();
        for (shard_bytes, files) in [(u64::MAX, 1), (30_000, 2)] {
            let to = Folder::new(&format!("quantize-to-{}-{files}", storage.name()));
            let bytes = run(&from.0, &to.0, storage, shard_bytes).unwrap();
            let found = names(&to.0);
            let size: u64 = found.iter().map(|name| std::fs::metadata(to.0.join(name)).unwrap().len()).sum();
            assert_eq!(bytes, size);
            assert!(found.contains(&"tokenizer.json".to_owned()) && !found.contains(&"notes.txt".to_owned()));
            let shards = found.iter().filter(|name| name.ends_with(".safetensors")).count();
            assert!(if files == 1 { shards == 1 } else { shards > 1 }, "{found:?}");
            let config: Value = serde_json::from_slice(&std::fs::read(to.0.join("config.json")).unwrap()).unwrap();
            assert_eq!(config["quantization_config"]["load_in_8bit"], storage == WeightStorage::Int8);
            assert_eq!(config["hidden_size"], 32);

            let quantized = load::open(&to.0).unwrap();
            assert_eq!(quantized.config(), source.config());
            for name in TinyModel::new(false).tensors.keys() {
                let held = if name.contains("_proj") { storage } else { WeightStorage::Stored };
                let expected = convert(name, source.tensor(name).unwrap(), held).unwrap();
                let found = quantized.tensor(name).unwrap();
                assert_eq!((found.stored, &found.shape), (expected.stored, &expected.shape), "{name}");
                assert!(found.bytes.as_slice() == expected.bytes.as_slice(), "{name}");
                assert_eq!(found.scales, expected.scales, "{name}");
            }
            hashes.push(quantized.metadata().unwrap().content_hash);
        }
        assert_eq!(hashes[0], hashes[1]);
    }
}

#[test]
fn one_tensor_is_held_at_a_time_and_progress_ends_with_everything() {
    let (from, to) = (Folder::new("quantize-memory"), Folder::new("quantize-memory-to"));
    let mut model = TinyModel::new(false);
    model.config.intermediate_size = 4096;
    for (index, (name, (shape, values))) in
        model.tensors.iter_mut().filter(|(name, _)| name.contains(".mlp.")).enumerate()
    {
        *shape = if name.contains("down_proj") { vec![32, 4096] } else { vec![4096, 32] };
        *values = numbers(32 * 4096, index as u32);
    }
    from.file("config.json", model.config_json().to_string().as_bytes());
    from.file("model.safetensors", &model.safetensors(|_| true));
    let mut seen: Vec<QuantizeProgress> = Vec::new();
    let request = QuantizeRequest { base: &from.0, storage: WeightStorage::Int8, shard_bytes: u64::MAX };
    let (result, peak) = peak_of(|| {
        quantize(&request, &to.0, &mut |progress| {
            seen.push(progress);
            true
        })
    });
    // A matrix as int8 has a quarter of its bytes; a piece of it is in f32 beside that, on whatever thread converts it.
    let matrix = 4 * 32 * 4096;
    assert!(result.unwrap() > matrix as u64 && peak < 2 * matrix, "{peak} bytes, a matrix has {matrix}");
    assert_eq!(seen.len(), model.tensors.len());
    assert!(seen.windows(2).all(|pair| pair[0].written_bytes < pair[1].written_bytes));
    let last = seen.last().unwrap();
    assert_eq!(last.written_bytes, last.total_bytes);
}

#[test]
fn a_run_that_is_cancelled_leaves_no_configuration() {
    let (from, to) = (Folder::new("quantize-cancel"), Folder::new("quantize-cancel-to"));
    base(&from);
    let request = QuantizeRequest { base: &from.0, storage: WeightStorage::Int8, shard_bytes: u64::MAX };
    let error = quantize(&request, &to.0, &mut |progress| progress.written_bytes < 20_000).unwrap_err();
    assert_eq!(error.code, ErrorCode::Cancelled);
    assert!(!to.0.join("config.json").exists());
}

#[test]
fn what_cannot_be_quantized_is_refused_by_name() {
    let (from, to) = (Folder::new("quantize-refuse"), Folder::new("quantize-refuse-to"));
    base(&from);
    let nf4 = WeightStorage::Nf4 { double_quant: true };
    let refuses = |base: &Path, storage, code, part: &str| {
        let error = run(base, &to.0, storage, u64::MAX).unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(part), "{error}");
        assert_eq!(names(&to.0), Vec::<String>::new(), "{part}");
    };
    refuses(&from.0, WeightStorage::Bf16, ErrorCode::InvalidArgument, "bf16; expected int8");
    let gguf: PathBuf = from.file("tiny.gguf", &TinyModel::new(false).gguf().bytes());
    refuses(&gguf, nf4, ErrorCode::ModelUnsupported, "a GGUF file");
    refuses(Path::new("/nowhere"), nf4, ErrorCode::ModelNotFound, "no model at");
    let package = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    let quantized = PathBuf::from(package).join("../../test/parity/golden/bitsandbytes/nf4");
    refuses(&quantized, nf4, ErrorCode::ModelUnsupported, "is quantized already (nf4)");
    // A file that is there already is not overwritten.
    to.file("model.safetensors", b"precious");
    let error = run(&from.0, &to.0, nf4, u64::MAX).unwrap_err();
    assert_eq!(
        (error.code, std::fs::read(to.0.join("model.safetensors")).unwrap()),
        (ErrorCode::Io, b"precious".to_vec())
    );
}
