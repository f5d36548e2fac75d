//! Vector registers, as far as the matrix kernel needs them.

/// One vector register of numbers. All functions are inlined into kernels that are compiled for the register's instruction set.
pub(super) trait Lanes: Copy {
    type Elem: Copy;
    const WIDTH: usize;

    fn zero() -> Self;
    /// # Safety
    /// `from` points to a readable number.
    unsafe fn splat(from: *const Self::Elem) -> Self;
    /// # Safety
    /// `from` points to `WIDTH` readable numbers; no alignment needed.
    unsafe fn load(from: *const Self::Elem) -> Self;
    /// # Safety
    /// `to` points to `WIDTH` writable numbers; no alignment needed.
    unsafe fn store(self, to: *mut Self::Elem);
    /// `a · b + self`
    fn add_product(self, a: Self, b: Self) -> Self;
}

/// Any processor: an array that the compiler may put into vector registers.
#[derive(Clone, Copy)]
pub(super) struct Portable<E>([E; 4]);

macro_rules! portable_lanes {
    ($element:ty) => {
        impl Lanes for Portable<$element> {
            type Elem = $element;
            const WIDTH: usize = 4;

            #[inline(always)]
            fn zero() -> Self {
                Self([0.0; 4])
            }
            #[inline(always)]
            unsafe fn splat(from: *const $element) -> Self {
                // SAFETY: the caller's promise.
                Self([unsafe { *from }; 4])
            }
            #[inline(always)]
            unsafe fn load(from: *const $element) -> Self {
                // SAFETY: the caller's promise.
                Self(unsafe { from.cast::<[$element; 4]>().read_unaligned() })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $element) {
                // SAFETY: the caller's promise.
                unsafe { to.cast::<[$element; 4]>().write_unaligned(self.0) }
            }
            #[inline(always)]
            fn add_product(self, a: Self, b: Self) -> Self {
                Self(std::array::from_fn(|i| {
                    // Where the processor may lack a fused product, asking for one means a slow call.
                    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
                        a.0[i].mul_add(b.0[i], self.0[i])
                    } else {
                        a.0[i] * b.0[i] + self.0[i]
                    }
                }))
            }
        }
    };
}

portable_lanes!(f32);
portable_lanes!(f64);

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    //! AVX2 with FMA, and AVX-512.

    use std::arch::x86_64::*;

    use super::Lanes;

    macro_rules! x86_lanes {
        ($(#[$doc:meta])* $name:ident, $register:ty, $element:ty, $width:literal, $zero:ident, $splat:ident, $load:ident, $store:ident, $fused:ident) => {
            $(#[$doc])*
            #[derive(Clone, Copy)]
            pub(in super::super) struct $name($register);

            impl Lanes for $name {
                type Elem = $element;
                const WIDTH: usize = $width;

                #[inline(always)]
                fn zero() -> Self {
                    // SAFETY: kernels over these lanes only run where the processor has the instructions.
                    Self(unsafe { $zero() })
                }
                #[inline(always)]
                unsafe fn splat(from: *const $element) -> Self {
                    // SAFETY: as `zero`, and the caller's promise.
                    Self(unsafe { $splat(*from) })
                }
                #[inline(always)]
                unsafe fn load(from: *const $element) -> Self {
                    // SAFETY: as `zero`, and the caller's promise.
                    Self(unsafe { $load(from) })
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut $element) {
                    // SAFETY: as `zero`, and the caller's promise.
                    unsafe { $store(to, self.0) }
                }
                #[inline(always)]
                fn add_product(self, a: Self, b: Self) -> Self {
                    // SAFETY: as `zero`.
                    Self(unsafe { $fused(a.0, b.0, self.0) })
                }
            }
        };
    }

    x86_lanes!(
        /// Eight f32; needs AVX2 and FMA.
        Avx2, __m256, f32, 8, _mm256_setzero_ps, _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_fmadd_ps
    );
    x86_lanes!(
        /// Sixteen f32; needs AVX-512F.
        Avx512, __m512, f32, 16, _mm512_setzero_ps, _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_fmadd_ps
    );
}
