//! Promises that another thread settles.

use luthier_core::{EngineError, Result};
use napi::bindgen_prelude::{Object, ToNapiValue};
use napi::{Env, JsDeferred};

type Resolver<T> = Box<dyn FnOnce(Env) -> napi::Result<T> + Send>;

/// Settles a promise, from any thread. Dropped without an answer, as where its thread panics or cannot be started, it rejects: a promise
/// that is never settled holds its caller, and the process, for ever.
pub struct Settle<T: ToNapiValue + Send + 'static>(Option<JsDeferred<T, Resolver<T>>>);

impl<T: ToNapiValue + Send + 'static> Settle<T> {
    pub fn with(mut self, result: Result<T>) {
        self.settle(result);
    }

    fn settle(&mut self, result: Result<T>) {
        match (self.0.take(), result) {
            (Some(deferred), Ok(value)) => deferred.resolve(Box::new(|_| Ok(value))),
            (Some(deferred), Err(error)) => deferred.reject(to_napi(&error)),
            (None, _) => {}
        }
    }
}

impl<T: ToNapiValue + Send + 'static> Drop for Settle<T> {
    fn drop(&mut self) {
        self.settle(Err(EngineError::internal("the engine failed before it could answer; please report this")));
    }
}

/// A pending promise, and what settles it.
pub fn promise<T: ToNapiValue + Send + 'static>(env: &Env) -> napi::Result<(Settle<T>, Object<'_>)> {
    let (deferred, promise) = env.create_deferred()?;
    Ok((Settle(Some(deferred)), promise))
}

/// A promise of work on a thread of its own: files, which may take long.
pub fn background<T: ToNapiValue + Send + 'static>(
    env: &Env,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> napi::Result<Object<'_>> {
    let (settle, promise) = promise(env)?;
    on_thread(move || settle.with(work()));
    Ok(promise)
}

/// Runs `work` on a thread of its own. Where the system refuses one, `work` is dropped, and with it every [`Settle`] it holds.
pub fn on_thread(work: impl FnOnce() + Send + 'static) {
    let _ = std::thread::Builder::new().name("luthier-files".to_owned()).spawn(work);
}

/// The error as JavaScript sees it: its message, and the code as the message of its cause.
pub fn to_napi(error: &EngineError) -> napi::Error {
    let mut found = napi::Error::from_reason(error.message.clone());
    found.set_cause(napi::Error::from_reason(error.code.as_str()));
    found
}
