//! An adapter in memory.

use std::sync::Arc;

use luthier_core::device::LoadedAdapter;
use luthier_core::{EngineError, ErrorCode};
use napi_derive::napi;

use crate::dto::NativeAdapterInfo;
use crate::promise::to_napi;

/// Shared with the runs that use it. Nothing once closed: the collector does not see the memory behind it.
#[napi]
pub struct NativeAdapter(Option<Arc<LoadedAdapter>>);

impl NativeAdapter {
    pub(crate) fn new(adapter: LoadedAdapter) -> Self {
        Self(Some(Arc::new(adapter)))
    }

    pub(crate) fn open(&self) -> napi::Result<Arc<LoadedAdapter>> {
        let closed = || to_napi(&EngineError::new(ErrorCode::Closed, "the adapter is closed; load it again"));
        self.0.clone().ok_or_else(closed)
    }
}

#[napi]
impl NativeAdapter {
    #[napi]
    pub fn info(&self) -> napi::Result<NativeAdapterInfo> {
        Ok((&self.open()?.info).into())
    }

    /// Frees it once no run uses it. Idempotent.
    #[napi]
    pub fn close(&mut self) {
        self.0 = None;
    }
}
