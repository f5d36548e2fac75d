//! Gradients summed in the host's memory: ranks of one process, on whatever devices. In the order of the ranks, so that a run that is repeated
//! has the same bits; each sum is rounded once.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use super::collective::{Collective, Connect};
use super::rendezvous::Rendezvous;
use crate::error::Result;
use crate::ops::{Element, Ops, View, ViewMut};

/// Numbers that are summed at once: 4 MiB of f32 a rank.
const AT_ONCE: usize = 1 << 20;

struct SharedMemory<O: Ops> {
    rendezvous: Arc<dyn Rendezvous>,
    /// Of each rank, what is being summed.
    parts: Arc<Vec<RwLock<Vec<O::Elem>>>>,
    bucket_len: Option<usize>,
    seconds: Mutex<f64>,
}

/// Connects `ranks` ranks. With `bucket_len`, reductions begin during the backward pass: that hides nothing here, but is the same calculus.
pub fn shared_memory<O: Ops>(ranks: usize, bucket_len: Option<usize>) -> Connect<O> {
    let parts: Arc<Vec<RwLock<Vec<O::Elem>>>> = Arc::new((0..ranks).map(|_| RwLock::default()).collect());
    Arc::new(move |_, rendezvous| {
        let parts = parts.clone();
        Ok(Arc::new(SharedMemory { rendezvous, parts, bucket_len, seconds: Mutex::default() }))
    })
}

impl<O: Ops> SharedMemory<O> {
    fn sum(&self, ops: &O, values: &mut O::Buffer, range: Range<usize>) -> Result<()> {
        let own = &self.parts[self.rendezvous.rank()];
        {
            let mut own = own.write().unwrap_or_else(PoisonError::into_inner);
            own.resize(range.len(), O::Elem::from_f64(0.0));
            ops.read(View::at(values, range.start), &mut own)?;
        }
        self.rendezvous.barrier()?;
        let mut sums = vec![0.0; range.len()];
        for part in &*self.parts {
            let part = part.read().unwrap_or_else(PoisonError::into_inner);
            for (sum, number) in sums.iter_mut().zip(&*part) {
                *sum += number.to_f64();
            }
        }
        // Nobody writes the next numbers before all have read these.
        self.rendezvous.barrier()?;
        let sums: Vec<O::Elem> = sums.into_iter().map(O::Elem::from_f64).collect();
        ops.write(&sums, ViewMut::at(values, range.start))
    }
}

impl<O: Ops> Collective<O> for SharedMemory<O> {
    fn rendezvous(&self) -> &dyn Rendezvous {
        &*self.rendezvous
    }

    fn bucket_len(&self) -> Option<usize> {
        self.bucket_len
    }

    fn all_reduce(&self, ops: &O, values: &mut O::Buffer, range: Range<usize>) -> Result<()> {
        let begin = Instant::now();
        for start in range.clone().step_by(AT_ONCE) {
            self.sum(ops, values, start..(start + AT_ONCE).min(range.end))?;
        }
        *self.seconds.lock().unwrap_or_else(PoisonError::into_inner) += begin.elapsed().as_secs_f64();
        Ok(())
    }

    fn finish(&self, _: &O) -> Result<()> {
        Ok(())
    }

    fn take_seconds(&self) -> f64 {
        std::mem::take(&mut *self.seconds.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::ops::cpu::CpuOps;
    use crate::ranks::{DEADLINE, LocalRendezvous};

    /// Ranges of one buffer in two reductions, one of them of several pieces; every rank has the same bits, and only there.
    #[test]
    fn ranges_are_summed_over_the_ranks() {
        let (ranks, len) = (3, AT_ONCE + 70);
        let number = |rank: usize, index: usize| ((index * 31 + rank * 7919) % 1009) as f32 * 0.123 - 50.0;
        let connect = shared_memory::<CpuOps<f32>>(ranks, None);
        let found: Vec<Vec<f32>> = thread::scope(|scope| {
            let threads: Vec<_> = LocalRendezvous::group(ranks, DEADLINE)
                .into_iter()
                .map(|end| {
                    let connect = connect.clone();
                    scope.spawn(move || {
                        let (rank, ops) = (end.rank(), Arc::new(CpuOps::<f32>::new(1)));
                        let collective = connect(&ops, end).unwrap();
                        let mut values: Vec<f32> = (0..len).map(|index| number(rank, index)).collect();
                        let mut buffer = ops.allocate(len).unwrap();
                        ops.write(&values, ViewMut::from(&mut buffer)).unwrap();
                        collective.all_reduce(&ops, &mut buffer, 40..len).unwrap();
                        collective.all_reduce(&ops, &mut buffer, 0..20).unwrap();
                        collective.finish(&ops).unwrap();
                        assert!(collective.take_seconds() > 0.0 && collective.take_seconds() == 0.0);
                        ops.read(View::from(&buffer), &mut values).unwrap();
                        values
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (rank, values) in found.iter().enumerate() {
            for (index, value) in values.iter().enumerate() {
                let sum = (0..ranks).map(|rank| f64::from(number(rank, index))).sum::<f64>() as f32;
                let expected = if (20..40).contains(&index) { number(rank, index) } else { sum };
                assert_eq!(*value, expected, "rank {rank}, number {index}");
            }
        }
    }
}
