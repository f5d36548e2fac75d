//! Ranks that are threads of one process.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::rendezvous::Rendezvous;
use crate::error::{EngineError, Result};

/// One rank's end of a meeting place in memory.
pub struct LocalRendezvous {
    rank: usize,
    place: Arc<Place>,
}

struct Place {
    ranks: usize,
    deadline: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Of the meeting under way, what each rank has brought.
    brought: Vec<Option<Vec<u8>>>,
    /// Meetings that are over.
    meetings: u64,
    /// Of the last meeting. It stays until the next is over, to which every rank must have come, so that all have read it.
    gathered: Arc<Vec<Vec<u8>>>,
    failure: Option<EngineError>,
}

impl LocalRendezvous {
    /// The ends of a new place, by rank; whoever waits longer than `deadline` fails, and all others with it.
    pub fn group(ranks: usize, deadline: Duration) -> Vec<Arc<dyn Rendezvous>> {
        let state = State { brought: vec![None; ranks], meetings: 0, gathered: Arc::default(), failure: None };
        let place = Arc::new(Place { ranks, deadline, state: Mutex::new(state), changed: Condvar::new() });
        (0..ranks).map(|rank| Arc::new(Self { rank, place: place.clone() }) as Arc<dyn Rendezvous>).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.place.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rendezvous for LocalRendezvous {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.place.ranks
    }

    fn deadline(&self) -> Duration {
        self.place.deadline
    }

    fn all_gather(&self, bytes: &[u8]) -> Result<Arc<Vec<Vec<u8>>>> {
        let Place { changed, deadline, .. } = &*self.place;
        let mut state = self.state();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        state.brought[self.rank] = Some(bytes.to_vec());
        if state.brought.iter().all(Option::is_some) {
            state.gathered = Arc::new(state.brought.iter_mut().filter_map(Option::take).collect());
            state.meetings += 1;
            changed.notify_all();
            return Ok(state.gathered.clone());
        }
        let (meeting, begin) = (state.meetings, Instant::now());
        loop {
            if state.meetings > meeting {
                return Ok(state.gathered.clone());
            }
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            let left = deadline.saturating_sub(begin.elapsed());
            if left.is_zero() {
                let missing: Vec<String> = (0..self.place.ranks)
                    .filter(|rank| state.brought[*rank].is_none())
                    .map(|rank| rank.to_string())
                    .collect();
                let message = format!(
                    "rank {} did not come within {} s; the run was ended on every device; look at what that device was doing",
                    missing.join(", "),
                    deadline.as_secs_f64()
                );
                let error = EngineError::internal(message);
                state.failure = Some(error.clone());
                changed.notify_all();
                return Err(error);
            }
            state = changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn abort(&self, error: EngineError) {
        self.state().failure.get_or_insert(error);
        self.place.changed.notify_all();
    }

    fn failure(&self) -> Option<EngineError> {
        self.state().failure.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::ErrorCode;
    use crate::ranks::DEADLINE;

    #[test]
    fn everybody_has_the_bytes_of_all_in_their_order() {
        let ends = LocalRendezvous::group(3, DEADLINE);
        thread::scope(|scope| {
            for end in &ends {
                scope.spawn(move || {
                    for round in 0..200u8 {
                        let found = end.all_gather(&[end.rank() as u8, round]).unwrap();
                        assert_eq!(*found, [[0, round], [1, round], [2, round]]);
                    }
                    let numbers = end.gather_numbers(&[end.rank() as f64, f64::NEG_INFINITY]).unwrap();
                    assert_eq!(numbers[2], [2.0, f64::NEG_INFINITY]);
                });
            }
        });
    }

    #[test]
    fn who_does_not_come_is_named_and_ends_the_meeting_for_all() {
        let ends = LocalRendezvous::group(3, Duration::from_millis(50));
        let errors: Vec<EngineError> = thread::scope(|scope| {
            let waiting: Vec<_> = [0, 2]
                .map(|rank| {
                    scope.spawn({
                        let end = &ends[rank];
                        move || end.barrier()
                    })
                })
                .into();
            waiting.into_iter().map(|thread| thread.join().unwrap().unwrap_err()).collect()
        });
        for error in &errors {
            assert!(error.code == ErrorCode::Internal && error.message.starts_with("rank 1 did not come"), "{error}");
        }
        assert!(ends[1].barrier().unwrap_err().message.starts_with("rank 1"), "too late");
    }

    #[test]
    fn a_failure_ends_every_wait_and_the_first_counts() {
        let ends = LocalRendezvous::group(2, DEADLINE);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| ends[0].barrier());
            ends[1].abort(EngineError::new(ErrorCode::OutOfMemory, "no room"));
            ends[1].abort(EngineError::internal("later"));
            assert_eq!(waiting.join().unwrap().unwrap_err().code, ErrorCode::OutOfMemory);
        });
        assert_eq!(ends[0].failure().unwrap().message, "no room");
        assert_eq!(ends[1].barrier().unwrap_err().code, ErrorCode::OutOfMemory);
    }
}
