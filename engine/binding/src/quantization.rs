//! A model being quantized ahead.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use luthier_core::WeightStorage;
use luthier_core::quantize::{QuantizeRequest, quantize};
use napi::Env;
use napi::bindgen_prelude::Object;
use napi_derive::napi;

use crate::promise::background;

#[napi(object, object_from_js = false)]
pub struct NativeQuantizeProgress {
    pub written_bytes: f64,
    pub total_bytes: f64,
}

#[derive(Default)]
struct State {
    written: AtomicU64,
    total: AtomicU64,
    cancelled: AtomicBool,
}

/// Files of a model, what they become, and where.
#[napi]
pub struct NativeQuantization {
    base: PathBuf,
    storage: WeightStorage,
    folder: PathBuf,
    state: Arc<State>,
}

impl NativeQuantization {
    pub fn new(base: PathBuf, storage: WeightStorage, folder: PathBuf) -> Self {
        Self { base, storage, folder, state: Arc::default() }
    }
}

#[napi]
impl NativeQuantization {
    #[napi]
    pub fn progress(&self) -> NativeQuantizeProgress {
        let bytes = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
        NativeQuantizeProgress { written_bytes: bytes(&self.state.written), total_bytes: bytes(&self.state.total) }
    }

    /// Ends the work after the tensor that is being written.
    #[napi]
    pub fn cancel(&self) {
        self.state.cancelled.store(true, Ordering::Relaxed);
    }

    /// Does the work; answers with the bytes of all files.
    #[napi]
    pub fn run<'env>(&self, env: &'env Env) -> napi::Result<Object<'env>> {
        let (base, storage, folder) = (self.base.clone(), self.storage, self.folder.clone());
        let state = self.state.clone();
        background(env, move || {
            let request = QuantizeRequest { base: &base, storage, shard_bytes: luthier_core::checkpoint::SHARD_BYTES };
            let bytes = quantize(&request, &folder, &mut |progress| {
                state.written.store(progress.written_bytes, Ordering::Relaxed);
                state.total.store(progress.total_bytes, Ordering::Relaxed);
                !state.cancelled.load(Ordering::Relaxed)
            })?;
            Ok(bytes as f64)
        })
    }
}
