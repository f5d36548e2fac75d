//! Where a model's tensors come from.

use crate::config::ModelConfig;
use crate::error::{EngineError, Result};
use crate::quant::{MatrixForm, Scales};
use crate::tensor::{HostTensor, TensorBytes};

/// Something that has a model's configuration and its tensors under Hugging Face names.
pub trait TensorSource {
    /// The shape of the decoder.
    fn config(&self) -> &ModelConfig;

    /// The tensor of a name such as `model.layers.0.self_attn.q_proj.weight`, in its stored type. A linear weight is
    /// `[out_features, in_features]`. Errors where the source lacks the name or cannot be read.
    fn tensor(&self, name: &str) -> Result<HostTensor>;

    /// Sizes and type of a matrix that [`Self::tensor`] would give. A source that makes its tensors tells them without making one.
    fn form(&self, name: &str) -> Result<MatrixForm> {
        let tensor = self.tensor(name)?;
        let [rows, columns] = tensor.shape[..] else {
            return Err(EngineError::internal(format!("`{name}` has the shape {:?}; expected a matrix", tensor.shape)));
        };
        Ok(MatrixForm {
            rows,
            columns,
            stored: tensor.stored,
            double_quant: matches!(tensor.scales, Some(Scales::Nested(_))),
            mapped: matches!(tensor.bytes, TensorBytes::Mapped { .. }),
        })
    }
}
