//! What a run is planned to be and need.

use luthier_core::train::{MemoryEstimate, Suggestion, TrainingEstimate};
use napi_derive::napi;

/// A base model that need not be loaded.
#[napi(object, object_to_js = false)]
pub struct NativeEstimatedModel {
    pub path: String,
    pub storage: String,
    /// As it is, or would be, loaded.
    pub embedding_in_host_memory: bool,
    /// Whether it is, in this form.
    pub loaded: bool,
    /// As the metadata has it: what an adapter to start from must have been made for.
    pub content_hash: String,
}

#[napi(object, object_from_js = false, use_nullable = true)]
pub struct NativeSuggestion {
    pub description: String,
    pub total_bytes: f64,
    pub recompute_layers: Option<f64>,
    pub offload_activations: bool,
    pub per_device_train_batch_size: Option<f64>,
    pub gradient_accumulation_steps: Option<f64>,
    pub per_device_eval_batch_size: Option<f64>,
    #[napi(js_name = "loadIn4bit")]
    pub load_in_4bit: bool,
    pub max_seq_length: Option<f64>,
}

impl From<Suggestion> for NativeSuggestion {
    fn from(found: Suggestion) -> Self {
        let number = |value: Option<usize>| value.map(|value| value as f64);
        Self {
            description: found.to_string(),
            total_bytes: found.total_bytes as f64,
            recompute_layers: number(found.recompute_layers),
            offload_activations: found.offload_activations,
            per_device_train_batch_size: number(found.per_device_train_batch_size),
            gradient_accumulation_steps: number(found.gradient_accumulation_steps),
            per_device_eval_batch_size: number(found.per_device_eval_batch_size),
            load_in_4bit: found.load_in_4bit,
            max_seq_length: number(found.max_seq_length),
        }
    }
}

#[napi(object, object_from_js = false, use_nullable = true)]
pub struct NativeMemoryEstimate {
    pub total_bytes: f64,
    pub weight_bytes: f64,
    pub adapter_bytes: f64,
    pub activation_bytes: f64,
    pub evaluation_bytes: f64,
    pub scratch_bytes: f64,
    pub pinned_host_bytes: f64,
    pub held_bytes: f64,
    pub free_bytes: Option<f64>,
    pub margin_bytes: f64,
    pub recompute_layers: f64,
    pub offload_activations: bool,
    pub layers: f64,
    /// Why a run that does not fit is refused.
    pub refusal: Option<String>,
    pub suggestions: Vec<NativeSuggestion>,
}

impl From<MemoryEstimate> for NativeMemoryEstimate {
    fn from(found: MemoryEstimate) -> Self {
        let plan = found.plan;
        Self {
            total_bytes: plan.total_bytes() as f64,
            weight_bytes: plan.weight_bytes as f64,
            adapter_bytes: plan.adapter_bytes as f64,
            activation_bytes: plan.activation_bytes as f64,
            evaluation_bytes: plan.evaluation_bytes as f64,
            scratch_bytes: plan.scratch_bytes as f64,
            pinned_host_bytes: plan.pinned_host_bytes as f64,
            held_bytes: found.held_bytes as f64,
            free_bytes: found.free_bytes.map(|bytes| bytes as f64),
            margin_bytes: found.margin_bytes as f64,
            recompute_layers: plan.recompute_layers as f64,
            offload_activations: plan.offload_activations,
            layers: found.layers as f64,
            refusal: found.refusal().map(|error| error.message),
            suggestions: found.suggestions.into_iter().map(Into::into).collect(),
        }
    }
}

#[napi(object, object_from_js = false)]
pub struct NativePacking {
    pub sequences: f64,
    pub utilization: f64,
}

#[napi(object, object_from_js = false, use_nullable = true)]
pub struct NativeTrainingEstimate {
    pub examples: f64,
    pub tokens: f64,
    pub label_tokens: f64,
    pub eval_examples: f64,
    pub packing: Option<NativePacking>,
    pub max_steps: f64,
    pub run_tokens: f64,
    pub trainable_parameters: f64,
    pub target_modules: Vec<String>,
    pub memory: NativeMemoryEstimate,
}

impl From<TrainingEstimate> for NativeTrainingEstimate {
    fn from(found: TrainingEstimate) -> Self {
        Self {
            examples: found.examples as f64,
            tokens: found.tokens as f64,
            label_tokens: found.label_tokens as f64,
            eval_examples: found.eval_examples as f64,
            packing: found
                .packing
                .map(|packing| NativePacking { sequences: packing.sequences as f64, utilization: packing.utilization }),
            max_steps: found.max_steps as f64,
            run_tokens: found.run_tokens as f64,
            trainable_parameters: found.trainable_parameters as f64,
            target_modules: found.target_modules,
            memory: found.memory.into(),
        }
    }
}
