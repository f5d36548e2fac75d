//! An adapter in memory.

use std::sync::Arc;

use luthier_core::device::LoadedAdapter;
use napi_derive::napi;

use crate::dto::NativeAdapterInfo;

/// Shared with the runs that use it; freed with the last of them.
#[napi]
pub struct NativeAdapter(pub(crate) Arc<LoadedAdapter>);

#[napi]
impl NativeAdapter {
    #[napi]
    pub fn info(&self) -> NativeAdapterInfo {
        (&self.0.info).into()
    }
}
