//! A base model in memory, and the runs it starts.

use std::path::PathBuf;
use std::sync::Arc;

use luthier_core::device::{Device, LoadedAdapter, LoadedModel, TrainingRequest};
use luthier_core::train::checkpoint::Checkpoint;
use luthier_core::{EngineError, ErrorCode};
use napi::Env;
use napi::bindgen_prelude::{ClassInstance, Object, Uint32Array};
use napi_derive::napi;

use crate::adapter::NativeAdapter;
use crate::dto::{NativeModelMetadata, NativeModelWeights};
use crate::examples::{ExampleSource, NativeExamples};
use crate::generation::{NativeGenerationRun, NativeSampling, NativeTokenScores};
use crate::promise::{background, on_thread, promise, to_napi};
use crate::training::{NativeTrainingConfig, NativeTrainingRun};

/// Shared with the runs that use it. Nothing once closed: the collector does not see the memory behind it.
#[napi]
pub struct NativeModel {
    device: Arc<Device>,
    model: Option<Arc<LoadedModel>>,
}

impl NativeModel {
    pub(crate) fn new(device: Arc<Device>, model: LoadedModel) -> Self {
        Self { device, model: Some(Arc::new(model)) }
    }

    fn open(&self) -> napi::Result<Arc<LoadedModel>> {
        let closed = || to_napi(&EngineError::new(ErrorCode::Closed, "the model is closed; load it again"));
        self.model.clone().ok_or_else(closed)
    }
}

type AdapterArgument<'a> = Option<ClassInstance<'a, NativeAdapter>>;

fn open_adapter(adapter: AdapterArgument<'_>) -> napi::Result<Option<Arc<LoadedAdapter>>> {
    adapter.map(|found| found.open()).transpose()
}

#[napi]
impl NativeModel {
    #[napi]
    pub fn metadata(&self) -> napi::Result<NativeModelMetadata> {
        Ok(self.open()?.metadata.clone().into())
    }

    #[napi]
    pub fn weights(&self) -> napi::Result<NativeModelWeights> {
        Ok((&*self.open()?).into())
    }

    #[napi]
    pub fn load_adapter<'env>(&self, env: &'env Env, folder: String, any_base: bool) -> napi::Result<Object<'env>> {
        let model = self.open()?;
        background(env, move || Ok(NativeAdapter::new(model.load_adapter(&PathBuf::from(folder), any_base)?)))
    }

    #[napi]
    pub fn train<'env>(
        &self,
        env: &'env Env,
        config: NativeTrainingConfig,
        train: NativeExamples,
        evaluation: Option<NativeExamples>,
        resume_from: Option<String>,
    ) -> napi::Result<Object<'env>> {
        let (device, model) = (self.device.clone(), self.open()?);
        let (settle, promise) = promise(env)?;
        let (train, evaluation) = (ExampleSource::from(train), evaluation.map(ExampleSource::from));
        let (init_adapter_path, any_base) = (config.init_adapter_path.clone(), config.init_adapter_any_base);
        let prepare = move || {
            let config = config.try_into()?;
            let (train, evaluation) = (train.open()?, evaluation.map(ExampleSource::open).transpose()?);
            let read = |folder| model.read_adapter(&PathBuf::from(folder), any_base);
            let initial = init_adapter_path.map(read).transpose()?;
            let initial = initial.map(|(adapter, _)| adapter);
            let read = |folder| Checkpoint::read(&PathBuf::from(folder));
            let resume_from = resume_from.map(read).transpose()?;
            Ok(TrainingRequest { model, config, train, evaluation, initial, resume_from })
        };
        // Reading the initial adapter or a checkpoint may take a moment; the device's thread has better things to do.
        on_thread(move || match prepare() {
            Ok(request) => {
                device.train(request, |started| settle.with(started.map(NativeTrainingRun::new)));
            }
            Err(error) => settle.with(Err(error)),
        });
        Ok(promise)
    }

    #[napi(catch_unwind)]
    pub fn generate(
        &self,
        input_ids: Uint32Array,
        sampling: NativeSampling,
        adapter: AdapterArgument<'_>,
    ) -> napi::Result<NativeGenerationRun> {
        let (model, adapter) = (self.open()?, open_adapter(adapter)?);
        let run = self.device.generate(&model, adapter.as_deref(), input_ids.to_vec(), sampling.into());
        Ok(NativeGenerationRun::new(run.map_err(|error| to_napi(&error))?))
    }

    #[napi(catch_unwind)]
    pub fn score<'env>(
        &self,
        env: &'env Env,
        input_ids: Uint32Array,
        top_logits: u32,
        adapter: AdapterArgument<'_>,
    ) -> napi::Result<Object<'env>> {
        let (model, adapter) = (self.open()?, open_adapter(adapter)?);
        let (settle, promise) = promise(env)?;
        let answer = |scores: luthier_core::Result<_>| settle.with(scores.map(NativeTokenScores::from));
        self.device.score(&model, adapter.as_deref(), input_ids.to_vec(), top_logits as usize, answer);
        Ok(promise)
    }

    /// Frees the weights once no run uses them. Idempotent.
    #[napi]
    pub fn close(&mut self) {
        self.model = None;
    }
}
