//! Row-wise work shared among threads, and functions compiled for several instruction sets.

use std::marker::PhantomData;
use std::ops::Range;

use super::pool::ThreadPool;

/// Numbers of one piece of work: enough that taking a piece costs nothing beside it.
const PIECE_NUMBERS: usize = 1 << 14;

/// A slice that pieces of one task fill side by side.
pub(super) struct Disjoint<'a, E> {
    start: *mut E,
    len: usize,
    owner: PhantomData<&'a mut [E]>,
}

// SAFETY: access goes through `range`, whose caller promises disjoint ranges.
unsafe impl<E: Send> Sync for Disjoint<'_, E> {}

impl<'a, E> Disjoint<'a, E> {
    pub fn new(values: &'a mut [E]) -> Self {
        Self { start: values.as_mut_ptr(), len: values.len(), owner: PhantomData }
    }

    /// Part of the slice, for one piece alone.
    ///
    /// # Safety
    /// Ranges in use at one time must not overlap.
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub unsafe fn range(&self, range: Range<usize>) -> &mut [E] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the borrowed slice, and disjoint from all others by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// The first element, for strided access that touches no other piece's elements.
    pub fn start(&self) -> *mut E {
        self.start
    }
}

/// Calls `work` on ranges that together are `0..rows`, each of about [`PIECE_NUMBERS`] numbers for rows of `width`.
pub(super) fn for_rows(pool: &mut ThreadPool, rows: usize, width: usize, work: impl Fn(Range<usize>) + Sync) {
    let piece = (PIECE_NUMBERS / width.max(1)).max(1);
    pool.run(rows.div_ceil(piece), &|index| work(index * piece..((index + 1) * piece).min(rows)));
}

/// Compiles a function over [`Real`](super::real::Real) numbers for AVX-512, for AVX2, and for any processor; calls the best.
macro_rules! vectorized {
    ($(#[$doc:meta])* $visibility:vis fn $name:ident<E>($($argument:ident: $kind:ty),* $(,)?) $(-> $output:ty)? $body:block) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments, reason = "plain loops over several arrays")]
        $visibility fn $name<E: $crate::ops::cpu::Real>($($argument: $kind),*) $(-> $output)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments, reason = "as above")]
            fn portable<E: $crate::ops::cpu::Real>($($argument: $kind),*) $(-> $output)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,fma")]
            #[allow(clippy::too_many_arguments, reason = "as above")]
            fn avx512<E: $crate::ops::cpu::Real>($($argument: $kind),*) $(-> $output)? {
                portable($($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments, reason = "as above")]
            fn avx2<E: $crate::ops::cpu::Real>($($argument: $kind),*) $(-> $output)? {
                portable($($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            match $crate::ops::cpu::parallel::vectors() {
                // SAFETY: the processor has these instructions.
                $crate::ops::cpu::parallel::Vectors::Avx512 => return unsafe { avx512($($argument),*) },
                // SAFETY: as above.
                $crate::ops::cpu::parallel::Vectors::Avx2 => return unsafe { avx2($($argument),*) },
                $crate::ops::cpu::parallel::Vectors::Any => {}
            }
            portable($($argument),*)
        }
    };
}
pub(super) use vectorized;

/// Instruction sets that [`vectorized`] tells apart.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) enum Vectors {
    Avx512,
    Avx2,
    Any,
}

/// What this processor has.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) fn vectors() -> Vectors {
    let fused = is_x86_feature_detected!("fma");
    let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl");
    if fused && wide && is_x86_feature_detected!("avx512dq") && is_x86_feature_detected!("avx512bw") {
        Vectors::Avx512
    } else if fused && is_x86_feature_detected!("avx2") {
        Vectors::Avx2
    } else {
        Vectors::Any
    }
}
