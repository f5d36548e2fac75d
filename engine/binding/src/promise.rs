//! Promises that another thread settles.

use luthier_core::{EngineError, Result};
use napi::bindgen_prelude::{Object, ToNapiValue};
use napi::{Env, JsDeferred};

type Resolver<T> = Box<dyn FnOnce(Env) -> napi::Result<T> + Send>;

/// Settles a promise, from any thread.
pub struct Settle<T: ToNapiValue>(JsDeferred<T, Resolver<T>>);

impl<T: ToNapiValue + Send + 'static> Settle<T> {
    pub fn with(self, result: Result<T>) {
        match result {
            Ok(value) => self.0.resolve(Box::new(|_| Ok(value))),
            Err(error) => self.0.reject(to_napi(&error)),
        }
    }
}

/// A pending promise, and what settles it.
pub fn promise<T: ToNapiValue + Send + 'static>(env: &Env) -> napi::Result<(Settle<T>, Object<'_>)> {
    let (deferred, promise) = env.create_deferred()?;
    Ok((Settle(deferred), promise))
}

/// A promise of work on a thread of its own: files, which may take long.
pub fn background<T: ToNapiValue + Send + 'static>(
    env: &Env,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> napi::Result<Object<'_>> {
    let (settle, promise) = promise(env)?;
    std::thread::Builder::new()
        .name("luthier-files".to_owned())
        .spawn(move || settle.with(catching(work)))
        .map_err(|error| to_napi(&EngineError::internal(format!("cannot start a thread: {error}"))))?;
    Ok(promise)
}

/// A panic as an error, so that the promise is settled whatever happens.
fn catching<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    outcome.unwrap_or_else(|_| {
        Err(EngineError::internal("the engine failed while it worked on files; please report this"))
    })
}

/// The error as JavaScript sees it: its message, and the code as the message of its cause.
pub fn to_napi(error: &EngineError) -> napi::Error {
    let mut found = napi::Error::from_reason(error.message.clone());
    found.set_cause(napi::Error::from_reason(error.code.as_str()));
    found
}
