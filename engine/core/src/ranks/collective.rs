//! What ranks do with their gradients.

use std::ops::Range;
use std::sync::Arc;

use super::rendezvous::Rendezvous;
use crate::error::Result;
use crate::ops::Ops;

/// One rank's side of the operations that all ranks of a run do together: each makes the same calls in the same order.
pub trait Collective<O: Ops>: Send + Sync {
    /// Where the ranks meet on the host.
    fn rendezvous(&self) -> &dyn Rendezvous;

    /// How many numbers at least a reduction should take that begins while others of the buffer are not final yet; none where beginning early
    /// gains nothing.
    fn bucket_len(&self) -> Option<usize>;

    /// Replaces a range of the buffer, on every rank, by the sum over the ranks: the same bits on all of them. A device may do it beside what
    /// follows, up to [`Self::finish`]; until then the range is not touched.
    ///
    /// Errors: those of [`Rendezvous::all_gather`]; what the device reports.
    fn all_reduce(&self, ops: &O, values: &mut O::Buffer, range: Range<usize>) -> Result<()>;

    /// After the last of some reductions: what follows on the device sees their results. Waits for them on the host, with the deadline.
    ///
    /// Errors: as [`Self::all_reduce`].
    fn finish(&self, ops: &O) -> Result<()>;

    /// Seconds that computing has stood still for reductions, with waiting for slower ranks, since this was last asked.
    fn take_seconds(&self) -> f64;
}

/// Makes a rank's collective, on the thread of its device. The calls of all ranks come at the same time.
pub type Connect<O> = Arc<dyn Fn(&Arc<O>, Arc<dyn Rendezvous>) -> Result<Arc<dyn Collective<O>>> + Send + Sync>;
