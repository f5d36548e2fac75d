//! The configuration of a quantized model: the base's, and what transformers needs to know of the quantization.

use serde_json::{Value, json};

use super::QuantizeRequest;
use super::parts::torch_name;
use crate::error::{EngineError, ErrorCode, Result};
use crate::load::ModelFiles;
use crate::quant::WeightStorage;
use crate::tensor::StoredType;

/// `config.json` with `quantization_config` as transformers' `BitsAndBytesConfig` writes it. bitsandbytes computes in the type that the weights
/// had; `linear` is one of them.
pub(super) fn config_json(
    request: &QuantizeRequest<'_>,
    linear: Option<&str>,
    files: &dyn ModelFiles,
) -> Result<String> {
    let path = request.base.join("config.json");
    let corrupt = |what: String| EngineError::new(ErrorCode::ModelCorrupt, format!("{}: {what}", path.display()));
    let text = std::fs::read(&path).map_err(|cause| EngineError::io("read", &path, &cause))?;
    let mut config: Value =
        serde_json::from_slice(&text).map_err(|cause| corrupt(format!("not valid JSON: {cause}")))?;
    let object = config.as_object_mut().ok_or_else(|| corrupt("expected a JSON object".into()))?;
    let stored = linear.map_or(Ok(StoredType::F32), |name| files.tensor(name).map(|tensor| tensor.stored))?;
    let int8 = request.storage == WeightStorage::Int8;
    object.insert(
        "quantization_config".to_owned(),
        json!({
            "quant_method": "bitsandbytes",
            "load_in_4bit": !int8,
            "load_in_8bit": int8,
            "bnb_4bit_compute_dtype": torch_name(stored),
            "bnb_4bit_quant_storage": "uint8",
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": request.storage == WeightStorage::Nf4 { double_quant: true },
            "llm_int8_enable_fp32_cpu_offload": false,
            "llm_int8_has_fp16_weight": false,
            "llm_int8_skip_modules": null,
            "llm_int8_threshold": 6.0,
        }),
    );
    Ok(format!("{config:#}\n"))
}
