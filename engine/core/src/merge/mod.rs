//! An adapter added to its base's weights, written as a checkpoint of its own: W + scale · B · A in f32, one tensor at a time.

mod checkpoint;
mod config_json;
mod encode;
mod gguf;
mod gguf_of_folder;
mod output;
mod tensor;
mod written;

use std::path::Path;
use std::str::FromStr;

use crate::config::ModelConfig;
use crate::error::{EngineError, ErrorCode, Result};
use crate::load;
use crate::load::gguf::{Architecture, GgufModel, architecture_of};
use crate::lora::peft::read_adapter;
use crate::quant::WeightStorage;
use crate::tensor::StoredType;

/// What a merged model is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeFormat {
    /// `config.json`, safetensors and what else the base's folder has.
    SafetensorsBf16,
    SafetensorsF16,
    /// `model.gguf`, with the base's metadata; norms stay f32.
    GgufF16,
    GgufQ8_0,
}

impl MergeFormat {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::SafetensorsBf16, Self::SafetensorsF16, Self::GgufF16, Self::GgufQ8_0];

    /// `safetensors_bf16`, `safetensors_f16`, `gguf_f16` or `gguf_q8_0`.
    pub fn name(self) -> &'static str {
        match self {
            Self::SafetensorsBf16 => "safetensors_bf16",
            Self::SafetensorsF16 => "safetensors_f16",
            Self::GgufF16 => "gguf_f16",
            Self::GgufQ8_0 => "gguf_q8_0",
        }
    }
}

impl FromStr for MergeFormat {
    type Err = EngineError;

    /// By [`Self::name`]. `INVALID_ARGUMENT` for any other.
    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            EngineError::invalid(format!("unknown merge format `{name}`; expected one of {names}"))
        })
    }
}

/// What is merged, and how.
pub struct MergeRequest<'a> {
    /// The base: a `.gguf` file or a Hugging Face folder.
    pub base: &'a Path,
    /// Its content hash, which the adapter must carry where it carries one; none: any base that the adapter's names and shapes fit.
    pub base_hash: Option<&'a str>,
    /// How the weights of linear layers are held before the adapter is added. An adapter fits best what it was trained on: where that was a
    /// quantized form, the numbers that the form stands for.
    pub storage: WeightStorage,
    /// A PEFT folder.
    pub adapter: &'a Path,
    pub format: MergeFormat,
    /// Of the largest safetensors file; transformers writes 5 GB.
    pub shard_bytes: u64,
}

/// What was written. Field for field the `MergedModel` of `src/engine/engine.ts`.
#[derive(Clone, Debug, PartialEq)]
pub struct MergedModel {
    /// Of all files.
    pub bytes: u64,
    /// The type that most of the linear layers' weights were dequantized from, such as `q4_1`; none where all had 16 bits or more.
    pub dequantized_from: Option<String>,
    /// Whether the folder has the base's tokenizer: a GGUF file has it as metadata, a folder made from one does not.
    pub has_tokenizer: bool,
}

/// Writes base and adapter as one model into an existing empty folder, and forces it to disk. A crash leaves half a folder: give it its name
/// afterwards.
///
/// Errors: those of [`load::open`] and [`read_adapter`]; `MODEL_UNSUPPORTED` for a base that cannot be written in this format and for numbers
/// beyond its range; `STORAGE_FULL`, `IO`.
pub fn merge(request: &MergeRequest<'_>, folder: &Path) -> Result<MergedModel> {
    let files = load::open(request.base)?;
    let (adapter, _) = read_adapter(request.adapter, files.config(), request.base_hash)?;
    let source = tensor::MergedTensors::new(&*files, request.storage, &adapter)?;
    let is_gguf = request.base.is_file();
    let bytes = match request.format {
        MergeFormat::SafetensorsBf16 => checkpoint::write(request, &source, StoredType::BF16, folder)?,
        MergeFormat::SafetensorsF16 => checkpoint::write(request, &source, StoredType::F16, folder)?,
        MergeFormat::GgufF16 | MergeFormat::GgufQ8_0 => {
            let source = source.with_normalized_head();
            let matrices = match request.format {
                MergeFormat::GgufQ8_0 => gguf::MatrixType::Q8_0,
                _ => gguf::MatrixType::F16,
            };
            let (architecture, contents) = match is_gguf {
                true => {
                    let base = GgufModel::open(request.base)?;
                    (base.architecture(), gguf::Contents::of_base(&base, &source)?)
                }
                false => {
                    let architecture = architecture_of_folder(request.base, source.config())?;
                    (architecture, gguf_of_folder::contents(request.base, architecture, &source)?)
                }
            };
            let bytes = gguf::write(contents, &source, matrices, architecture, folder)?;
            let dequantized_from = source.dequantized_from();
            return Ok(MergedModel { bytes, dequantized_from, has_tokenizer: true });
        }
    };
    Ok(MergedModel { bytes, dequantized_from: source.dequantized_from(), has_tokenizer: !is_gguf })
}

/// What a folder's model is in a GGUF file.
fn architecture_of_folder(base: &Path, config: &ModelConfig) -> Result<&'static Architecture> {
    // ChatGLM's tokenizer is code: which ids its control tokens have is in no file.
    let found = architecture_of(&config.model_type).filter(|architecture| architecture.name != "chatglm");
    found.ok_or_else(|| {
        let (base, kind) = (base.display(), &config.model_type);
        let message = format!(
            "{base}: a folder of model_type `{kind}` cannot be merged into a GGUF file, since its tokenizer is code of its own; merge it into safetensors"
        );
        EngineError::new(ErrorCode::ModelUnsupported, message)
    })
}
