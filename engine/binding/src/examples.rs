//! Examples as they come from TypeScript: in memory, or as a file that is mapped here.

use std::path::PathBuf;

use luthier_core::model::{Examples, FileExamples, TokenExamples};
use luthier_core::{EngineError, Result};
use napi::bindgen_prelude::{Int32Array, Uint32Array};
use napi_derive::napi;

/// Either the file's three or the arrays' three.
#[napi(object, object_to_js = false)]
pub struct NativeExamples {
    pub path: Option<String>,
    pub part: Option<String>,
    pub held_out: Option<f64>,
    pub input_ids: Option<Uint32Array>,
    pub labels: Option<Int32Array>,
    pub offsets: Option<Uint32Array>,
}

/// The same, away from JavaScript. Arrays are copied.
pub enum ExampleSource {
    Memory(TokenExamples),
    File { path: PathBuf, part: String, held_out: f64 },
    Neither,
}

impl From<NativeExamples> for ExampleSource {
    fn from(found: NativeExamples) -> Self {
        match found {
            NativeExamples { path: Some(path), part: Some(part), held_out: Some(held_out), .. } => {
                Self::File { path: PathBuf::from(path), part, held_out }
            }
            NativeExamples { input_ids: Some(input_ids), labels: Some(labels), offsets: Some(offsets), .. } => {
                let (input_ids, labels, offsets) = (input_ids.to_vec(), labels.to_vec(), offsets.to_vec());
                Self::Memory(TokenExamples { input_ids, labels, offsets })
            }
            _ => Self::Neither,
        }
    }
}

impl ExampleSource {
    /// Maps a file. Errors: `IO`, `INVALID_ARGUMENT`.
    pub fn open(self) -> Result<Box<dyn Examples>> {
        match self {
            Self::Memory(examples) => Ok(Box::new(examples)),
            Self::File { path, part, held_out } => Ok(Box::new(FileExamples::open(&path, part.parse()?, held_out)?)),
            Self::Neither => Err(EngineError::invalid("examples: expected a file or arrays, found neither")),
        }
    }
}
