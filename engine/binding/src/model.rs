//! A base model in memory, and the runs it starts.

use std::path::PathBuf;
use std::sync::Arc;

use luthier_core::device::{Device, LoadedModel, TrainingRequest};
use luthier_core::model::TokenExamples;
use napi::Env;
use napi::bindgen_prelude::{ClassInstance, Int32Array, Object, Uint32Array};
use napi_derive::napi;

use crate::adapter::NativeAdapter;
use crate::dto::NativeModelMetadata;
use crate::generation::{NativeGenerationRun, NativeSampling, NativeTokenScores};
use crate::promise::{background, promise, to_napi};
use crate::training::{NativeTrainingConfig, NativeTrainingRun};

/// Shared with the runs that use it; freed with the last of them.
#[napi]
pub struct NativeModel {
    pub(crate) device: Arc<Device>,
    pub(crate) model: Arc<LoadedModel>,
}

/// Examples, concatenated. The arrays are copied.
#[napi(object, object_to_js = false)]
pub struct NativeTokenExamples {
    pub input_ids: Uint32Array,
    pub labels: Int32Array,
    pub offsets: Uint32Array,
}

impl From<NativeTokenExamples> for TokenExamples {
    fn from(found: NativeTokenExamples) -> Self {
        Self { input_ids: found.input_ids.to_vec(), labels: found.labels.to_vec(), offsets: found.offsets.to_vec() }
    }
}

#[napi]
impl NativeModel {
    #[napi]
    pub fn metadata(&self) -> NativeModelMetadata {
        self.model.metadata.clone().into()
    }

    #[napi]
    pub fn load_adapter<'env>(&self, env: &'env Env, folder: String) -> napi::Result<Object<'env>> {
        let model = self.model.clone();
        background(env, move || Ok(NativeAdapter(Arc::new(model.load_adapter(&PathBuf::from(folder))?))))
    }

    #[napi]
    pub fn train<'env>(
        &self,
        env: &'env Env,
        config: NativeTrainingConfig,
        train: NativeTokenExamples,
        evaluation: Option<NativeTokenExamples>,
    ) -> napi::Result<Object<'env>> {
        let (settle, promise) = promise(env)?;
        let (train, evaluation) = (train.into(), evaluation.map(Into::into));
        let (device, model) = (self.device.clone(), self.model.clone());
        let init_adapter_path = config.init_adapter_path.clone();
        let prepare = move || {
            let config = config.try_into()?;
            let initial = init_adapter_path.map(|folder| model.read_adapter(&PathBuf::from(folder))).transpose()?;
            Ok(TrainingRequest { model, config, train, evaluation, initial: initial.map(|(adapter, _)| adapter) })
        };
        // Reading the initial adapter may take a moment; the device's thread has better things to do.
        std::thread::spawn(move || match prepare() {
            Ok(request) => {
                device.train(request, |started| settle.with(started.map(NativeTrainingRun::new)));
            }
            Err(error) => settle.with(Err(error)),
        });
        Ok(promise)
    }

    #[napi]
    pub fn generate(
        &self,
        input_ids: Uint32Array,
        sampling: NativeSampling,
        adapter: Option<ClassInstance<'_, NativeAdapter>>,
    ) -> napi::Result<NativeGenerationRun> {
        let adapter = adapter.map(|found| found.0.clone());
        let run = self.device.generate(&self.model, adapter.as_deref(), input_ids.to_vec(), sampling.into());
        Ok(NativeGenerationRun::new(run.map_err(|error| to_napi(&error))?))
    }

    #[napi]
    pub fn score<'env>(
        &self,
        env: &'env Env,
        input_ids: Uint32Array,
        top_logits: u32,
        adapter: Option<ClassInstance<'_, NativeAdapter>>,
    ) -> napi::Result<Object<'env>> {
        let (settle, promise) = promise(env)?;
        let adapter = adapter.map(|found| found.0.clone());
        let answer = |scores: luthier_core::Result<_>| settle.with(scores.map(NativeTokenScores::from));
        self.device.score(&self.model, adapter.as_deref(), input_ids.to_vec(), top_logits as usize, answer);
        Ok(promise)
    }
}
