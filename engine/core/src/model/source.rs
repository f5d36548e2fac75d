//! Where a model's tensors come from.

use crate::config::ModelConfig;
use crate::error::Result;
use crate::quant::MatrixForm;
use crate::tensor::HostTensor;

/// Something that has a model's configuration and its tensors under Hugging Face names.
pub trait TensorSource {
    /// The shape of the decoder.
    fn config(&self) -> &ModelConfig;

    /// The tensor of a name such as `model.layers.0.self_attn.q_proj.weight`, in its stored type. A linear weight is
    /// `[out_features, in_features]`. Errors where the source lacks the name or cannot be read.
    fn tensor(&self, name: &str) -> Result<HostTensor>;

    /// Sizes and type of a matrix that [`Self::tensor`] would give. A source that makes its tensors tells them without making one.
    fn form(&self, name: &str) -> Result<MatrixForm> {
        MatrixForm::of(name, &self.tensor(name)?)
    }
}
