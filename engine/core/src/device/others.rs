//! The devices beside the first, which train with it.

use std::sync::Arc;

use super::backend::Training;
use super::training::TrainingInputs;
use crate::error::Result;
use crate::lora::peft::PeftAdapter;
#[cfg(any(feature = "cuda", test))]
use crate::model::TensorSource;
use crate::model::{BaseModel, Examples};
#[cfg(any(feature = "cuda", test))]
use crate::ops::EmbeddingPlace;
use crate::ops::Ops;
#[cfg(any(feature = "cuda", test))]
use crate::quant::WeightStorage;
use crate::ranks::{Connect, DEADLINE, RankThread};
use crate::train::checkpoint::{ResumedFrom, Snapshot};
use crate::train::{
    EstimateRequest, Progress, Rank, RankedInputs, RankedTrainer, TrainConfig, TrainingEstimate, estimate,
};

/// A device of rank 1 or more, and its thread.
struct Other<O: Ops> {
    name: String,
    ops: Arc<O>,
    thread: Arc<RankThread>,
}

/// All of rank 1 or more; none where the first device is alone.
pub(super) struct Others<O: Ops> {
    /// Of the first device.
    name: String,
    others: Vec<Other<O>>,
    /// Connects the ranks of a new run.
    connect: Box<dyn Fn() -> Connect<O> + Send + Sync>,
}

impl<O: Ops> Others<O> {
    /// Of devices by name; `names` begins with the first, which the others follow. Starts a thread for each.
    ///
    /// Errors: `INTERNAL` where the system refuses a thread.
    pub fn new(
        names: &[String],
        others: Vec<O>,
        connect: impl Fn() -> Connect<O> + Send + Sync + 'static,
    ) -> Result<Arc<Self>> {
        let other = |(name, ops): (&String, O)| -> Result<Other<O>> {
            Ok(Other { name: name.clone(), ops: Arc::new(ops), thread: Arc::new(RankThread::start(name)?) })
        };
        let others = names.iter().skip(1).zip(others).map(other).collect::<Result<_>>()?;
        let name = names.first().cloned().unwrap_or_default();
        Ok(Arc::new(Self { name, others, connect: Box::new(connect) }))
    }

    /// How many devices there are, the first among them.
    pub fn world_size(&self) -> usize {
        1 + self.others.len()
    }

    /// A copy of a model on each of the other devices, read and converted there as on the first.
    ///
    /// Errors: those of [`BaseModel::load_placed`].
    #[cfg(any(feature = "cuda", test))]
    pub fn load(
        &self,
        files: &dyn TensorSource,
        storage: WeightStorage,
        embedding: EmbeddingPlace,
    ) -> Result<Vec<Arc<BaseModel<O>>>> {
        let load = |other: &Other<O>| BaseModel::load_placed(&*other.ops, files, storage, embedding).map(Arc::new);
        self.others.iter().map(load).collect()
    }

    /// The same model for each of the other devices, which have one memory with the first.
    pub fn share(&self, base: &Arc<BaseModel<O>>) -> Vec<Arc<BaseModel<O>>> {
        vec![base.clone(); self.others.len()]
    }

    /// What a run would need on the device with the least room for it: the smallest plan is that of all.
    ///
    /// Errors: those of [`estimate`].
    pub fn estimate(&self, first: &O, request: &EstimateRequest<'_>) -> Result<TrainingEstimate> {
        let config = TrainConfig { world_size: self.world_size(), ..request.config.clone() };
        let request = EstimateRequest { config: &config, ..*request };
        let mut found = estimate(first, &request)?;
        for other in &self.others {
            let there = estimate(&*other.ops, &request)?;
            let key = |found: &TrainingEstimate| (!found.memory.fits, found.memory.plan.recompute_layers);
            if key(&there) > key(&found) {
                found = there;
            }
        }
        Ok(found)
    }

    /// Starts a run on all devices; `bases` are the other devices'.
    ///
    /// Errors: those of [`RankedTrainer::new`].
    pub fn train(
        &self,
        ops: &Arc<O>,
        base: &Arc<BaseModel<O>>,
        bases: &[Arc<BaseModel<O>>],
        inputs: TrainingInputs,
    ) -> Result<Box<dyn Training>> {
        let TrainingInputs { identity, config, train, evaluation, initial, resume_from } = inputs;
        let inputs = RankedInputs {
            config,
            train: Arc::from(train),
            evaluation: evaluation.map(Arc::<dyn Examples>::from),
            initial,
            model: Some(identity),
            resume_from: resume_from.map(Arc::new),
        };
        let first = Rank { name: self.name.clone(), ops: ops.clone(), base: base.clone() };
        let others = self.others.iter().zip(bases).map(|(other, base)| {
            let rank = Rank { name: other.name.clone(), ops: other.ops.clone(), base: base.clone() };
            (rank, other.thread.clone())
        });
        Ok(Box::new(RankedTrainer::new(first, others.collect(), &inputs, &(self.connect)(), DEADLINE)?))
    }
}

impl<O: Ops> Training for RankedTrainer<O> {
    fn advance(&mut self) -> Result<Progress> {
        self.advance()
    }

    fn adapter(&self) -> Result<PeftAdapter> {
        self.adapter()
    }

    fn can_checkpoint(&self) -> bool {
        self.can_checkpoint()
    }

    fn checkpoint(&mut self, spare: Option<Snapshot>) -> Result<Snapshot> {
        self.checkpoint(spare)
    }

    fn request_checkpoint(&mut self) {
        self.request_checkpoint();
    }

    fn stop_after_step(&mut self) {
        self.stop_after_step();
    }

    fn resumed(&self) -> Option<&ResumedFrom> {
        self.resumed()
    }
}
