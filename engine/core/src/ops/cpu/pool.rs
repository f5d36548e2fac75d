//! A few threads that work on one operation together, in training and in decoding.
//!
//! A token is more than a hundred short products. Handing each to a general pool costs about as much as a small product itself, so these
//! helpers watch one word of memory for the next task and go to sleep only after a pause. A task is cut into pieces that whoever is free
//! takes; the caller works too, and never waits for a helper that has not begun: on a busy machine a sleeping helper costs nothing.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::thread::{JoinHandle, Thread};

/// Looks at the state word before a helper goes to sleep; some 50 µs, a little more than the caller's work between two tasks.
const SPINS_BEFORE_SLEEP: u32 = 20_000;
/// Looks by the caller before it offers its core to others.
const SPINS_BEFORE_YIELD: u32 = 4_000;

/// State word: generation in the upper half, then the bit that a task is open, then the number of helpers at work.
const OPEN: u64 = 1 << 31;
const GENERATION: u64 = 1 << 32;
const HELPERS: u64 = OPEN - 1;

type Task<'a> = dyn Fn(usize) + Sync + 'a;

struct Shared {
    state: AtomicU64,
    next_piece: AtomicUsize,
    /// Written by the caller while no task is open and no helper at work; read by helpers that have entered.
    task: UnsafeCell<Option<(*const Task<'static>, usize)>>,
    panicked: AtomicBool,
    stop: AtomicBool,
    asleep: Vec<AtomicBool>,
}

// SAFETY: `task` is only touched as its comment says, ordered by `state`; the pointer is valid while helpers may be inside (see `run`).
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// The threads. One task runs at a time; the pool belongs to the thread that owns the device.
pub struct ThreadPool {
    shared: Arc<Shared>,
    helpers: Vec<(Thread, JoinHandle<()>)>,
}

impl ThreadPool {
    /// A pool that works with `threads` threads, the caller among them.
    pub fn new(threads: usize) -> Self {
        let helpers = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            next_piece: AtomicUsize::new(0),
            task: UnsafeCell::new(None),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            asleep: (0..helpers).map(|_| AtomicBool::new(false)).collect(),
        });
        let helpers = (0..helpers)
            .map_while(|index| {
                let shared = shared.clone();
                let name = format!("luthier-worker-{index}");
                // A system that refuses another thread leaves the pool smaller, not broken.
                let handle = std::thread::Builder::new().name(name).spawn(move || shared.help(index)).ok()?;
                Some((handle.thread().clone(), handle))
            })
            .collect();
        Self { shared, helpers }
    }

    /// Threads at work in a task, the caller among them.
    pub fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Calls `task` once for every piece in `0..pieces`, on any thread, in any order, and returns when all are done.
    /// `&mut self`: a task cannot start another. Panics where a piece panicked.
    pub fn run(&mut self, pieces: usize, task: &Task<'_>) {
        if self.helpers.is_empty() || pieces < 2 {
            (0..pieces).for_each(task);
            return;
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes; `close`, which also runs when this thread unwinds, returns only after every helper has left.
        let task_for_helpers: *const Task<'static> = unsafe { std::mem::transmute(std::ptr::from_ref(task)) };
        // SAFETY: no task is open and no helper at work, since the last `run` closed its own.
        unsafe { *shared.task.get() = Some((task_for_helpers, pieces)) };
        shared.next_piece.store(0, Ordering::Relaxed);
        let generation = (shared.state.load(Ordering::Relaxed) & !(GENERATION - 1)).wrapping_add(GENERATION);
        shared.state.store(generation | OPEN, Ordering::Release);
        let closing = CloseOnDrop(shared);
        // Orders the store above before the looks at `asleep`; a helper does the reverse before it sleeps, so one of the two sees the other.
        fence(Ordering::SeqCst);
        for ((thread, _), asleep) in self.helpers.iter().zip(&shared.asleep) {
            if asleep.load(Ordering::Relaxed) {
                thread.unpark();
            }
        }
        shared.work(task, pieces);
        drop(closing);
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a piece of a task panicked on a helper thread");
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for (thread, handle) in self.helpers.drain(..) {
            thread.unpark();
            // A helper catches its tasks' panics; nothing is left to report.
            let _ = handle.join();
        }
    }
}

struct CloseOnDrop<'a>(&'a Shared);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Shared {
    fn work(&self, task: &Task<'_>, pieces: usize) {
        loop {
            let piece = self.next_piece.fetch_add(1, Ordering::Relaxed);
            if piece >= pieces {
                return;
            }
            task(piece);
        }
    }

    /// Lets no further helper in and waits for those inside.
    fn close(&self) {
        let mut state = self.state.fetch_and(!OPEN, Ordering::Acquire);
        let mut looks = 0;
        while state & HELPERS != 0 {
            looks += 1;
            if looks % SPINS_BEFORE_YIELD == 0 {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
            state = self.state.load(Ordering::Acquire);
        }
    }

    /// Life of a helper: wait for a generation it has not worked on, enter if it is still open, take pieces, leave.
    fn help(&self, index: usize) {
        let mut done = 0;
        let mut looks = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let state = self.state.load(Ordering::Acquire);
            if state & OPEN == 0 || state / GENERATION == done {
                looks += 1;
                if looks < SPINS_BEFORE_SLEEP {
                    std::hint::spin_loop();
                } else {
                    self.sleep(index, done);
                    looks = 0;
                }
                continue;
            }
            if self.state.compare_exchange(state, state + 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
                continue;
            }
            done = state / GENERATION;
            looks = 0;
            // SAFETY: entered: the caller waits in `close` and changes nothing until this helper has left.
            if let Some((task, pieces)) = unsafe { *self.task.get() } {
                // SAFETY: as above, the closure is alive.
                let task = unsafe { &*task };
                let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.work(task, pieces)));
                if outcome.is_err() {
                    self.panicked.store(true, Ordering::Relaxed);
                }
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    fn sleep(&self, index: usize, done: u64) {
        self.asleep[index].store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let state = self.state.load(Ordering::Relaxed);
        let waiting = state & OPEN == 0 || state / GENERATION == done;
        if waiting && !self.stop.load(Ordering::SeqCst) {
            std::thread::park();
        }
        self.asleep[index].store(false, Ordering::Relaxed);
    }
}

/// A slice of results that pieces of one task fill side by side.
pub(super) struct Shards<'a> {
    start: *mut f32,
    length: usize,
    owner: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: access goes through `range`, whose caller promises disjoint ranges.
unsafe impl Sync for Shards<'_> {}

impl<'a> Shards<'a> {
    pub fn new(results: &'a mut [f32]) -> Self {
        Self { start: results.as_mut_ptr(), length: results.len(), owner: std::marker::PhantomData }
    }

    /// The address of an element, for kernels that write with a stride. Writing through it follows the rule of [`Self::range`], element by
    /// element.
    pub fn address(&self, offset: usize) -> *mut f32 {
        assert!(offset < self.length);
        self.start.wrapping_add(offset)
    }

    /// Part of the slice, for one piece alone.
    ///
    /// # Safety
    /// Ranges handed out while a task runs must not overlap.
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub unsafe fn range(&self, range: std::ops::Range<usize>) -> &mut [f32] {
        assert!(range.start <= range.end && range.end <= self.length);
        // SAFETY: inside the borrowed slice, and disjoint from all others by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_runs_exactly_once() {
        for threads in [1, 2, 4] {
            let mut pool = ThreadPool::new(threads);
            for round in 0..2_000usize {
                let pieces = round % 17;
                let counts: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
                pool.run(pieces, &|piece| {
                    counts[piece].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn helpers_wake_after_a_pause() {
        let mut pool = ThreadPool::new(2);
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            let barrier = std::sync::Barrier::new(2);
            // Both pieces must be under way at once, so the helper has to come.
            pool.run(2, &|_| {
                barrier.wait();
            });
        }
    }

    #[test]
    fn a_panic_in_a_piece_reaches_the_caller_and_the_pool_lives_on() {
        let mut pool = ThreadPool::new(2);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.run(8, &|piece| assert!(piece != 5, "piece 5 fails on purpose"));
        }));
        assert!(outcome.is_err());
        let sum = AtomicUsize::new(0);
        pool.run(8, &|piece| {
            sum.fetch_add(piece, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 28);
    }
}
