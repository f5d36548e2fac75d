//! Which of cuBLASLt's algorithms is the fastest for large products: its first proposal is often one or two percent slower than its second.

use cudarc::cublaslt::sys;
use cudarc::driver::{DriverError, result, sys as driver};

use crate::error::{CudaError, Result};
use crate::matmul_plan::{Key, Layout};
use crate::stream::{NumberType, Stream};

/// Proposals that are asked for, and of these, how many are tried.
pub(crate) const PROPOSALS: usize = 8;
const TRIED: usize = 4;
/// Multiply-adds from which a product is worth it: 1,800 tokens through a matrix of 4096 × 4096.
const LARGE: usize = 30 << 30;
/// Runs before anything is timed, so that the clock is that of a device at work; then rounds over all proposals, each with runs that are not
/// timed and runs that are.
const WARM_UP: usize = 80;
const ROUNDS: usize = 3;
const UNTIMED: usize = 4;
const TIMED: usize = 12;
/// Part of the first proposal's time that another one must save to be taken.
const WORTH: f32 = 0.01;

/// Products that share a choice: one matrix with about as many rows.
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct Family {
    inputs: NumberType,
    output: NumberType,
    left: Layout,
    right_transposed: bool,
    adds: bool,
    /// Of the power of two below the number of rows.
    exponent: u32,
}

impl Family {
    /// Of a product, if it is worth a choice.
    pub fn of(key: &Key) -> Option<Self> {
        let Key { inputs, output, left, right, result, adds, .. } = *key;
        let inner = if right.transposed { right.columns } else { right.rows };
        let work = result.rows * result.columns * inner;
        let large = work >= LARGE && inputs != NumberType::F32;
        let exponent = result.columns.checked_ilog2()?;
        large.then_some(Self { inputs, output, left, right_transposed: right.transposed, adds, exponent })
    }
}

/// Proposals worth trying: those that need no workspace add up each sum in one piece, as the first one does.
pub(crate) fn worth_trying(found: &[sys::cublasLtMatmulHeuristicResult_t]) -> Vec<sys::cublasLtMatmulAlgo_t> {
    let others = found.iter().skip(1).filter(|found| found.workspaceSize == 0);
    found.iter().take(1).chain(others).take(TRIED).map(|found| found.algo).collect()
}

/// The fastest of `algorithms`, which `run` starts; the first one unless another is clearly faster.
pub(crate) fn fastest(
    stream: &Stream,
    algorithms: &[sys::cublasLtMatmulAlgo_t],
    run: impl Fn(&sys::cublasLtMatmulAlgo_t) -> Result<()>,
) -> Result<sys::cublasLtMatmulAlgo_t> {
    for _ in 0..WARM_UP {
        run(&algorithms[0])?;
    }
    let (begin, end) = (Clock::new(stream)?, Clock::new(stream)?);
    let mut best = vec![f32::INFINITY; algorithms.len()];
    for _ in 0..ROUNDS {
        for (algorithm, best) in algorithms.iter().zip(&mut best) {
            for _ in 0..UNTIMED {
                run(algorithm)?;
            }
            begin.record()?;
            for _ in 0..TIMED {
                run(algorithm)?;
            }
            end.record()?;
            *best = best.min(begin.milliseconds_until(&end)?);
        }
    }
    let fastest = (1..best.len()).min_by(|a, b| best[*a].total_cmp(&best[*b]));
    let chosen = fastest.filter(|index| best[*index] < best[0] * (1.0 - WORTH)).unwrap_or(0);
    Ok(algorithms[chosen])
}

/// A point in a stream's work whose time is known once it is reached.
struct Clock<'a> {
    event: driver::CUevent,
    stream: &'a Stream,
}

impl<'a> Clock<'a> {
    fn new(stream: &'a Stream) -> Result<Self> {
        let event = result::event::create(driver::CUevent_flags::CU_EVENT_DEFAULT).map_err(failed)?;
        Ok(Self { event, stream })
    }

    fn record(&self) -> Result<()> {
        // SAFETY: event and stream are alive and of one context.
        unsafe { result::event::record(self.event, self.stream.raw()) }.map_err(failed)
    }

    fn milliseconds_until(&self, end: &Self) -> Result<f32> {
        // SAFETY: as above; both were recorded.
        unsafe {
            result::event::synchronize(end.event).map_err(failed)?;
            result::event::elapsed(self.event, end.event).map_err(failed)
        }
    }
}

impl Drop for Clock<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `new`, used no more.
        let _ = unsafe { result::event::destroy(self.event) };
    }
}

fn failed(error: DriverError) -> CudaError {
    CudaError::new("timing products", &error)
}
