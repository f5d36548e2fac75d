//! Where ranks meet on the host.

use std::sync::Arc;
use std::time::Duration;

use crate::error::EngineError;
use crate::error::Result;

/// How long a rank waits for the others unless told otherwise: far longer than any micro-batch takes.
pub const DEADLINE: Duration = Duration::from_secs(600);

/// The meeting place of one rank's run. Calls are collective: each rank makes the same ones in the same order. One that fails, on whatever
/// rank, fails on all.
///
/// Ranks of one process meet by [`LocalRendezvous`](super::LocalRendezvous); those of several hosts would by a connection.
pub trait Rendezvous: Send + Sync {
    /// From 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn ranks(&self) -> usize;

    /// How long a rank waits for the others.
    fn deadline(&self) -> Duration;

    /// The bytes of every rank, in their order, once all have come.
    ///
    /// Errors: the first that [`Self::abort`] was told; `INTERNAL` where a rank does not come in time, which names it.
    fn all_gather(&self, bytes: &[u8]) -> Result<Arc<Vec<Vec<u8>>>>;

    /// Ends what every rank waits for, now and from here on. The first error counts.
    fn abort(&self, error: EngineError);

    /// What [`Self::abort`] was told first.
    fn failure(&self) -> Option<EngineError>;

    /// Waits for all ranks.
    ///
    /// Errors: those of [`Self::all_gather`].
    fn barrier(&self) -> Result<()> {
        self.all_gather(&[]).map(drop)
    }

    /// The numbers of every rank, equally many, in the order of the ranks.
    ///
    /// Errors: those of [`Self::all_gather`].
    fn gather_numbers(&self, numbers: &[f64]) -> Result<Vec<Vec<f64>>> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let gathered = self.all_gather(&bytes)?;
        Ok(gathered.iter().map(|bytes| numbers_of(bytes)).collect())
    }
}

/// Numbers as [`Rendezvous::gather_numbers`] sends them.
fn numbers_of(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
}
