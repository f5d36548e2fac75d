//! The files of a checkpoint, and what becomes of them.

use std::fs;
use std::path::Path;

use luthier_core::train::checkpoint::Checkpoint;
use luthier_core::{EngineError, ErrorCode};
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use crate::case;
use crate::shared::Folder;

/// Within a step, after an evaluation that was the best.
fn saved(folder: &Path) -> luthier_core::train::checkpoint::SavedCheckpoint {
    case(|config| config.load_best_model_at_end = true).saved_after(17, folder)
}

fn refused(folder: &Path) -> EngineError {
    Checkpoint::read(folder).err().unwrap()
}

#[test]
fn files_are_hashed_and_readable_by_others() {
    let folder = Folder::new();
    let saved = saved(&folder.0);
    assert_eq!(saved.global_step, 2);
    let names: Vec<&str> = saved.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["state.safetensors", "checkpoint.json"]);
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 2);
    for file in &saved.files {
        let bytes = fs::read(folder.0.join(&file.name)).unwrap();
        let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((file.bytes, &file.sha256), (bytes.len() as u64, &hash), "{}", file.name);
    }
    let bytes = fs::read(folder.0.join("state.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut names = tensors.names();
    names.sort_unstable();
    assert_eq!(names, ["adapter", "best_adapter", "gradients", "moments.first", "moments.second"]);
    let document: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.0.join("checkpoint.json")).unwrap()).unwrap();
    let modules = document["run"]["modules"].as_array().unwrap();
    let last = modules.last().unwrap();
    let count = |name: &str| last[name].as_u64().unwrap() as usize;
    let adapter = tensors.tensor("adapter").unwrap();
    assert_eq!(
        (adapter.dtype(), adapter.shape()),
        (Dtype::F32, &[count("b_offset") + count("out_features") * count("r")][..])
    );
    assert_eq!(document["run"]["settings"]["learning_rate"], "0.002");
    assert_eq!(document["run"]["environment"]["threads"], "2");
    assert_eq!(document["state"]["global_step"], 2);
}

#[test]
fn files_are_never_written_over() {
    let folder = Folder::new();
    saved(&folder.0);
    let trainer = case(|_| {}).trainer().checkpoint(None).unwrap();
    let error = trainer.write(&folder.0).unwrap_err();
    assert_eq!(error.code, ErrorCode::Io);
    assert!(error.message.contains("state.safetensors"), "{error}");
    assert!(Checkpoint::read(&folder.0).is_ok());
    assert_eq!(trainer.write(&folder.0.join("nowhere")).unwrap_err().code, ErrorCode::Io);
}

#[test]
fn a_file_that_is_missing_or_cut_is_named() {
    for name in ["state.safetensors", "checkpoint.json"] {
        let folder = Folder::new();
        saved(&folder.0);
        let path = folder.0.join(name);
        let bytes = fs::read(&path).unwrap();
        for length in [0, 1, 40, 100, bytes.len() / 2, bytes.len() - 1] {
            fs::write(&path, &bytes[..length]).unwrap();
            let error = refused(&folder.0);
            assert_eq!(error.code, ErrorCode::CheckpointCorrupt, "{error}");
            assert!(error.message.contains(name), "{error}");
        }
        fs::write(&path, [&bytes[..], &[0]].concat()).unwrap();
        assert_eq!(refused(&folder.0).code, ErrorCode::CheckpointCorrupt, "one byte more");
        fs::remove_file(&path).unwrap();
        let error = refused(&folder.0);
        assert!(error.code == ErrorCode::CheckpointCorrupt && error.message.contains("the file is missing"), "{error}");
    }
    assert_eq!(refused(Path::new("/nowhere/at/all")).code, ErrorCode::CheckpointCorrupt);
}

/// Any bit of the document, and of the tensors' header and every some bytes.
#[test]
fn one_bit_anywhere_is_seen() {
    let folder = Folder::new();
    saved(&folder.0);
    let sizes = ["checkpoint.json", "state.safetensors"].map(|name| fs::read(folder.0.join(name)).unwrap());
    for (name, bytes) in ["checkpoint.json", "state.safetensors"].into_iter().zip(sizes) {
        let path = folder.0.join(name);
        let stride = (bytes.len() / 500).max(1);
        for place in (0..bytes.len()).filter(|place| *place < 100 || place % stride == 0) {
            let mut changed = bytes.clone();
            changed[place] ^= 1 << (place % 8);
            fs::write(&path, changed).unwrap();
            let error = refused(&folder.0);
            assert_eq!(error.code, ErrorCode::CheckpointCorrupt, "byte {place} of {name}: {error}");
            let words = [name, "expected SHA-256", "found"];
            assert!(words.iter().all(|word| error.message.contains(word)), "byte {place} of {name}: {error}");
        }
        fs::write(&path, bytes).unwrap();
        assert!(Checkpoint::read(&folder.0).is_ok());
    }
}

/// A document that was written by another version, hash and all.
#[test]
fn another_version_of_the_format_is_no_corruption() {
    let folder = Folder::new();
    saved(&folder.0);
    let path = folder.0.join("checkpoint.json");
    let text = fs::read_to_string(&path).unwrap().replace("\"format_version\": 1", "\"format_version\": 2");
    let begin = text.find("\"sha256\": \"").unwrap() + 11;
    let blank = format!("{}{}{}", &text[..begin], "0".repeat(64), &text[begin + 64..]);
    let hash: String = Sha256::digest(blank.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(&path, format!("{}{hash}{}", &text[..begin], &text[begin + 64..])).unwrap();
    let error = refused(&folder.0);
    assert_eq!(error.code, ErrorCode::CheckpointMismatch, "{error}");
    assert!(error.message.contains("format version 2; expected 1"), "{error}");
}
