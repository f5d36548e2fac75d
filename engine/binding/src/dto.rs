//! The plain objects of `src/engine/native-addon.ts`, in the same order. Absent values are null.

use luthier_core::device::{DeviceInfo, LoadedModel};
use luthier_core::load::{GgufTokenizerMetadata, ModelMetadata, TokenizerSource};
use luthier_core::lora::peft::{AdapterInfo, AdapterMetadata, SavedAdapter};
use luthier_core::merge::MergedModel;
use napi::bindgen_prelude::{Float32Array, Int32Array};
use napi_derive::napi;

#[napi(object, object_from_js = false)]
pub struct NativeEngineInfo {
    pub version: String,
    pub device: String,
    pub devices: Vec<String>,
    pub device_name: String,
    pub threads: u32,
    pub instruction_set: String,
    pub compute_dtype: String,
    pub attention: String,
    pub total_memory_bytes: f64,
}

impl From<&DeviceInfo> for NativeEngineInfo {
    fn from(info: &DeviceInfo) -> Self {
        Self {
            version: info.version.clone(),
            device: info.device.clone(),
            devices: info.devices.clone(),
            device_name: info.device_name.clone(),
            threads: info.threads as u32,
            instruction_set: info.instruction_set.clone(),
            compute_dtype: info.compute_dtype.clone(),
            attention: info.attention.clone(),
            total_memory_bytes: info.total_memory_bytes as f64,
        }
    }
}

#[napi(object, object_from_js = false, use_nullable = true)]
pub struct NativeGgufTokenizer {
    pub model: String,
    pub pre: Option<String>,
    pub tokens: Vec<String>,
    pub scores: Option<Float32Array>,
    pub token_types: Option<Int32Array>,
    pub merges: Option<Vec<String>>,
    pub bos_token_id: Option<u32>,
    pub eos_token_id: Option<u32>,
    pub eot_token_id: Option<u32>,
    pub unknown_token_id: Option<u32>,
    pub padding_token_id: Option<u32>,
    pub add_bos_token: Option<bool>,
    pub add_eos_token: Option<bool>,
    pub add_space_prefix: Option<bool>,
    pub chat_template: Option<String>,
}

impl From<GgufTokenizerMetadata> for NativeGgufTokenizer {
    fn from(found: GgufTokenizerMetadata) -> Self {
        Self {
            model: found.model,
            pre: found.pre,
            tokens: found.tokens,
            scores: found.scores.map(Float32Array::new),
            token_types: found.token_types.map(Int32Array::new),
            merges: found.merges,
            bos_token_id: found.bos_token_id,
            eos_token_id: found.eos_token_id,
            eot_token_id: found.eot_token_id,
            unknown_token_id: found.unknown_token_id,
            padding_token_id: found.padding_token_id,
            add_bos_token: found.add_bos_token,
            add_eos_token: found.add_eos_token,
            add_space_prefix: found.add_space_prefix,
            chat_template: found.chat_template,
        }
    }
}

/// One of the two tokenizer sources is set.
#[napi(object, object_from_js = false, use_nullable = true)]
pub struct NativeModelMetadata {
    pub path: String,
    pub format: String,
    pub architecture: String,
    pub name: String,
    pub vocab_size: u32,
    pub hidden_size: u32,
    pub intermediate_size: u32,
    pub num_hidden_layers: u32,
    pub num_attention_heads: u32,
    pub num_key_value_heads: u32,
    pub head_dim: u32,
    pub max_position_embeddings: u32,
    pub tie_word_embeddings: bool,
    pub rope_theta: f64,
    pub rms_norm_eps: f64,
    pub parameter_count: f64,
    pub stored_bytes: f64,
    pub storage_type: String,
    pub content_hash: String,
    pub eos_token_ids: Vec<u32>,
    pub linear_modules: Vec<String>,
    pub tokenizer_gguf: Option<NativeGgufTokenizer>,
    pub tokenizer_folder: Option<String>,
}

impl From<ModelMetadata> for NativeModelMetadata {
    fn from(found: ModelMetadata) -> Self {
        let (tokenizer_gguf, tokenizer_folder) = match found.tokenizer {
            TokenizerSource::Gguf(metadata) => (Some((*metadata).into()), None),
            TokenizerSource::HuggingFace(folder) => (None, Some(folder.to_string_lossy().into_owned())),
        };
        Self {
            path: found.path,
            format: found.format,
            architecture: found.architecture,
            name: found.name,
            vocab_size: found.vocab_size as u32,
            hidden_size: found.hidden_size as u32,
            intermediate_size: found.intermediate_size as u32,
            num_hidden_layers: found.num_hidden_layers as u32,
            num_attention_heads: found.num_attention_heads as u32,
            num_key_value_heads: found.num_key_value_heads as u32,
            head_dim: found.head_dim as u32,
            max_position_embeddings: found.max_position_embeddings as u32,
            tie_word_embeddings: found.tie_word_embeddings,
            rope_theta: found.rope_theta,
            rms_norm_eps: found.rms_norm_eps,
            parameter_count: found.parameter_count as f64,
            stored_bytes: found.stored_bytes as f64,
            storage_type: found.storage_type,
            content_hash: found.content_hash,
            eos_token_ids: found.eos_token_ids,
            linear_modules: found.linear_modules,
            tokenizer_gguf,
            tokenizer_folder,
        }
    }
}

#[napi(object, object_from_js = false)]
pub struct NativeModelWeights {
    pub storage: String,
    pub storage_type: String,
    pub loaded_bytes: f64,
}

impl From<&LoadedModel> for NativeModelWeights {
    fn from(model: &LoadedModel) -> Self {
        Self {
            storage: model.storage.name().to_owned(),
            storage_type: model.storage_type().to_owned(),
            loaded_bytes: model.weight_bytes() as f64,
        }
    }
}

#[napi(object)]
pub struct NativeAdapterMetadata {
    pub base_model_name: String,
    pub base_model_hash: String,
    pub template_id: String,
    pub template_hash: String,
    pub template: String,
}

impl From<NativeAdapterMetadata> for AdapterMetadata {
    fn from(found: NativeAdapterMetadata) -> Self {
        Self {
            base_model_name: found.base_model_name,
            base_model_hash: found.base_model_hash,
            template_id: found.template_id,
            template_hash: found.template_hash,
            template: found.template,
        }
    }
}

#[napi(object, object_from_js = false, use_nullable = true)]
pub struct NativeAdapterInfo {
    pub r: u32,
    pub lora_alpha: f64,
    pub use_rslora: bool,
    pub target_modules: Vec<String>,
    pub parameter_count: f64,
    pub sha256: String,
    pub metadata: Option<NativeAdapterMetadata>,
}

impl From<&AdapterInfo> for NativeAdapterInfo {
    fn from(info: &AdapterInfo) -> Self {
        let metadata = info.metadata.as_ref().map(|found| NativeAdapterMetadata {
            base_model_name: found.base_model_name.clone(),
            base_model_hash: found.base_model_hash.clone(),
            template_id: found.template_id.clone(),
            template_hash: found.template_hash.clone(),
            template: found.template.clone(),
        });
        Self {
            r: info.r as u32,
            lora_alpha: info.lora_alpha,
            use_rslora: info.use_rslora,
            target_modules: info.target_modules.clone(),
            parameter_count: info.parameter_count as f64,
            sha256: info.sha256.clone(),
            metadata,
        }
    }
}

#[napi(object, object_from_js = false)]
pub struct NativeSavedAdapter {
    pub bytes: f64,
    pub sha256: String,
}

impl From<SavedAdapter> for NativeSavedAdapter {
    fn from(saved: SavedAdapter) -> Self {
        Self { bytes: saved.bytes as f64, sha256: saved.sha256 }
    }
}

/// A base model's files. `content_hash`: what the adapter must have been made for; absent: any that it fits.
#[napi(object, object_to_js = false)]
pub struct NativeMergeBase {
    pub path: String,
    pub content_hash: Option<String>,
    pub storage: String,
}

#[napi(object, object_from_js = false, use_nullable = true)]
pub struct NativeMergedModel {
    pub bytes: f64,
    pub dequantized_from: Option<String>,
    pub has_tokenizer: bool,
}

impl From<MergedModel> for NativeMergedModel {
    fn from(merged: MergedModel) -> Self {
        Self {
            bytes: merged.bytes as f64,
            dequantized_from: merged.dequantized_from,
            has_tokenizer: merged.has_tokenizer,
        }
    }
}
