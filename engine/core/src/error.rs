//! One error type for the engine: a stable code and a message that says what was expected, what was found and what to do.

use std::fmt;
use std::path::Path;

/// What went wrong, as a closed set. The names are part of the boundary to TypeScript: see `src/engine/errors.ts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    ModelNotFound,
    ModelCorrupt,
    ModelUnsupported,
    AdapterNotFound,
    AdapterCorrupt,
    AdapterMismatch,
    AdapterUnsupported,
    CheckpointCorrupt,
    CheckpointMismatch,
    UnknownTargetModule,
    InvalidArgument,
    SequenceTooLong,
    NoTrainableTokens,
    NonFiniteLoss,
    OutOfMemory,
    StorageFull,
    Io,
    Cancelled,
    Closed,
    Internal,
}

impl ErrorCode {
    /// The code as TypeScript knows it, such as `MODEL_CORRUPT`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ModelNotFound => "MODEL_NOT_FOUND",
            Self::ModelCorrupt => "MODEL_CORRUPT",
            Self::ModelUnsupported => "MODEL_UNSUPPORTED",
            Self::AdapterNotFound => "ADAPTER_NOT_FOUND",
            Self::AdapterCorrupt => "ADAPTER_CORRUPT",
            Self::AdapterMismatch => "ADAPTER_MISMATCH",
            Self::AdapterUnsupported => "ADAPTER_UNSUPPORTED",
            Self::CheckpointCorrupt => "CHECKPOINT_CORRUPT",
            Self::CheckpointMismatch => "CHECKPOINT_MISMATCH",
            Self::UnknownTargetModule => "UNKNOWN_TARGET_MODULE",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::SequenceTooLong => "SEQUENCE_TOO_LONG",
            Self::NoTrainableTokens => "NO_TRAINABLE_TOKENS",
            Self::NonFiniteLoss => "NON_FINITE_LOSS",
            Self::OutOfMemory => "OUT_OF_MEMORY",
            Self::StorageFull => "STORAGE_FULL",
            Self::Io => "IO",
            Self::Cancelled => "CANCELLED",
            Self::Closed => "CLOSED",
            Self::Internal => "INTERNAL",
        }
    }
}

/// An engine failure.
#[derive(Clone, Debug)]
pub struct EngineError {
    pub code: ErrorCode,
    pub message: String,
}

/// Result of every fallible engine function.
pub type Result<T> = std::result::Result<T, EngineError>;

impl EngineError {
    /// An error with a code and a complete message.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// An argument that cannot be worked with.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, message)
    }

    /// A broken invariant of the engine itself.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Internal, message)
    }

    /// An I/O failure on a path; a full disk gets its own code, so that a caller can say so.
    pub fn io(action: &str, path: &Path, error: &std::io::Error) -> Self {
        let code = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorCode::StorageFull,
            _ => ErrorCode::Io,
        };
        Self::new(code, format!("cannot {action} {}: {error}", path.display()))
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)
    }
}

impl std::error::Error for EngineError {}
