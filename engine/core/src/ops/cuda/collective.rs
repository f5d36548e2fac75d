//! Gradients summed over GPUs of one machine by NCCL, beside the computation.

use std::ops::Range;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use luthier_kernels::{Communicator, NcclError, nccl_problem, new_nccl_id};

use super::device::CudaOps;
use super::memory::{CudaBuffer, single};
use crate::error::{EngineError, Result};
use crate::ranks::{Collective, Connect, Rendezvous};

/// 16 MiB: large enough that NCCL reaches its speed, small enough that most of an adapter is summed before the backward pass ends.
pub const BUCKET_LEN: usize = 1 << 22;
/// Between two looks at whether sums are done.
const PAUSE: Duration = Duration::from_micros(20);

impl From<NcclError> for EngineError {
    fn from(error: NcclError) -> Self {
        Self::internal(format!("GPU: {error}"))
    }
}

/// Why GPUs cannot train together here; none where they can.
///
/// Errors: `INVALID_ARGUMENT`, with what to install.
pub fn check_nccl() -> Result<()> {
    nccl_problem().map_or(Ok(()), |problem| {
        Err(EngineError::invalid(format!(
            "training on several GPUs needs NVIDIA's NCCL, which cannot be opened: {problem}; install the package libnccl2, or the Python \
             wheel nvidia-nccl-cu13 and name the folder of its libnccl.so.2 in LD_LIBRARY_PATH; or use one GPU"
        )))
    })
}

/// Connects GPUs of this machine, each rank another one. With `bucket_len`, reductions begin during the backward pass.
pub fn nccl(bucket_len: Option<usize>) -> Connect<CudaOps> {
    Arc::new(move |ops: &Arc<CudaOps>, rendezvous: Arc<dyn Rendezvous>| {
        check_nccl()?;
        let id = if rendezvous.rank() == 0 { new_nccl_id()? } else { Vec::new() };
        let id = rendezvous.all_gather(&id)?[0].clone();
        let communicator = join(ops, id, &*rendezvous)?;
        Ok(Arc::new(NcclCollective { rendezvous, communicator, bucket_len, seconds: Mutex::default() }))
    })
}

/// NCCL waits for the other ranks without an end: on a thread of its own, which is left behind where they do not come.
fn join(ops: &CudaOps, id: Vec<u8>, rendezvous: &dyn Rendezvous) -> Result<Communicator> {
    let (stream, ranks, rank) = (ops.memory.stream.clone(), rendezvous.ranks(), rendezvous.rank());
    let (joined, wait) = channel();
    std::thread::Builder::new()
        .name("luthier-nccl".to_owned())
        .spawn(move || joined.send(Communicator::new(stream, &id, ranks, rank)))
        .map_err(|error| EngineError::internal(format!("cannot start a thread for NCCL: {error}")))?;
    let begin = Instant::now();
    loop {
        if let Ok(found) = wait.recv_timeout(Duration::from_millis(20)) {
            return Ok(found?);
        }
        check(rendezvous, begin, "the GPUs did not join")?;
    }
}

/// Fails where the run has, or once the deadline is over.
fn check(rendezvous: &dyn Rendezvous, begin: Instant, what: &str) -> Result<()> {
    if let Some(failure) = rendezvous.failure() {
        return Err(failure);
    }
    if begin.elapsed() <= rendezvous.deadline() {
        return Ok(());
    }
    let seconds = rendezvous.deadline().as_secs_f64();
    Err(EngineError::internal(format!("GPU: {what} within {seconds} s; with NCCL_DEBUG=WARN NCCL says more")))
}

struct NcclCollective {
    rendezvous: Arc<dyn Rendezvous>,
    communicator: Communicator,
    bucket_len: Option<usize>,
    seconds: Mutex<f64>,
}

impl Collective<CudaOps> for NcclCollective {
    fn rendezvous(&self) -> &dyn Rendezvous {
        &*self.rendezvous
    }

    fn bucket_len(&self) -> Option<usize> {
        self.bucket_len
    }

    fn all_reduce(&self, _: &CudaOps, values: &mut CudaBuffer, range: Range<usize>) -> Result<()> {
        single(values)?;
        let place = values.place_mut(range.start, range.len())?;
        // SAFETY: so many f32 lie there; the trait's callers leave them alone until `finish`, and make the same calls on every rank.
        Ok(unsafe { self.communicator.sum(place, range.len()) }?)
    }

    fn finish(&self, _: &CudaOps) -> Result<()> {
        self.communicator.finish()?;
        let begin = Instant::now();
        let found = loop {
            match self.communicator.is_finished() {
                Ok(true) => break Ok(()),
                Ok(false) => {}
                Err(error) => break Err(error.into()),
            }
            if let Err(error) = check(&*self.rendezvous, begin, "the sums of the gradients were not done") {
                break Err(error);
            }
            std::thread::sleep(PAUSE);
        };
        if found.is_err() {
            // Its kernels wait for ranks that are gone, and the memory they sum cannot be given back before.
            self.communicator.abort();
            return found;
        }
        *self.seconds.lock().unwrap_or_else(PoisonError::into_inner) += self.communicator.seconds()?;
        Ok(())
    }

    fn take_seconds(&self) -> f64 {
        std::mem::take(&mut *self.seconds.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
