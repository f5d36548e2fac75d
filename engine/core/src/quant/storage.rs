//! How the weights of linear layers are held.

use std::str::FromStr;

use crate::error::{EngineError, Result};
use crate::tensor::StoredType;

/// How the weights of linear layers are held: every one but the output layer. Embeddings, norms and the output layer, also where it is the
/// embedding table, stay as the files have them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightStorage {
    /// As the files have them: mapped, not copied.
    #[default]
    Stored,
    Bf16,
    F16,
    /// Signed 8-bit codes and one scale for each row.
    Int8,
    /// 4-bit codes and one scale for each block of 64; with `double_quant` the scales are 8-bit codes themselves.
    Nf4 {
        double_quant: bool,
    },
}

impl WeightStorage {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Stored,
        Self::Bf16,
        Self::F16,
        Self::Int8,
        Self::Nf4 { double_quant: false },
        Self::Nf4 { double_quant: true },
    ];

    /// `stored`, `bf16`, `f16`, `int8`, `nf4` or `nf4_double_quant`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Nf4 { double_quant: false } => "nf4",
            Self::Nf4 { double_quant: true } => "nf4_double_quant",
        }
    }

    /// The type that tensors are converted to; `None`: they stay as they are.
    pub fn stored_type(self) -> Option<StoredType> {
        match self {
            Self::Stored => None,
            Self::Bf16 => Some(StoredType::BF16),
            Self::F16 => Some(StoredType::F16),
            Self::Int8 => Some(StoredType::Int8),
            Self::Nf4 { .. } => Some(StoredType::Nf4),
        }
    }
}

impl FromStr for WeightStorage {
    type Err = EngineError;

    /// By [`Self::name`]. `INVALID_ARGUMENT` for any other.
    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|storage| storage.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            EngineError::invalid(format!("unknown weight storage `{name}`; expected one of {names}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    #[test]
    fn names_are_read_back_and_others_are_refused() {
        for storage in WeightStorage::ALL {
            assert_eq!(storage.name().parse::<WeightStorage>().unwrap(), storage);
        }
        let error = "fp4".parse::<WeightStorage>().unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidArgument);
        assert!(error.message.contains("`fp4`") && error.message.contains("nf4_double_quant"), "{error}");
    }
}
