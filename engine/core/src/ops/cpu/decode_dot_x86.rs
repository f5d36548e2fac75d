//! The dot products of `decode_dot` with AVX2 and with AVX-512 VNNI, bit for bit the same.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::decode_dot::{BlockFormat, FLOAT_LANES, LANES, add_floats, fold_float_lanes, fold_lanes, offset_factor};
use super::decode_quantize::{BLOCK, QuantizedVector};

/// How far ahead of the rows under way memory is asked for. Rows are short and read side by side, which hides their order from the processor.
const PREFETCH_BYTES: usize = 4096;

/// Rows of at least this many floats are weights and come from memory; shorter ones are cached keys, which do not need to be asked for.
const LONG_ROW: usize = 257;

/// 16 bytes of nibbles as 32 bytes: low nibbles, then high nibbles.
#[target_feature(enable = "avx2")]
#[inline]
fn unpack_nibbles(packed: __m128i) -> __m256i {
    let both = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(packed), _mm_srli_epi16::<4>(packed));
    _mm256_and_si256(both, _mm256_set1_epi8(15))
}

/// Sums of four neighbouring products of unsigned and signed bytes. Pairs must stay within 16 bits: 2 · 128 · 127 does.
#[target_feature(enable = "avx2")]
#[inline]
fn sum_products_avx2(unsigned: __m256i, signed: __m256i) -> __m256i {
    _mm256_madd_epi16(_mm256_maddubs_epi16(unsigned, signed), _mm256_set1_epi16(1))
}

/// As [`sum_products_avx2`], in one instruction.
#[target_feature(enable = "avx512vnni,avx512vl")]
#[inline]
fn sum_products_vnni(unsigned: __m256i, signed: __m256i) -> __m256i {
    _mm256_dpbusd_epi32(_mm256_setzero_si256(), unsigned, signed)
}

/// Two f16 at `bytes` as f32 in lanes 0 and 1.
#[target_feature(enable = "f16c")]
#[inline]
unsafe fn two_halves(bytes: *const u8) -> __m128 {
    // SAFETY: the caller gives 4 readable bytes.
    _mm_cvtph_ps(_mm_cvtsi32_si128(unsafe { bytes.cast::<i32>().read_unaligned() }))
}

/// One f16 at `bytes` as f32 in lanes 0 and 1.
#[target_feature(enable = "f16c")]
#[inline]
unsafe fn one_half_twice(bytes: *const u8) -> __m128 {
    // SAFETY: the caller gives 2 readable bytes.
    let bits = u32::from(unsafe { bytes.cast::<u16>().read_unaligned() });
    _mm_cvtph_ps(_mm_cvtsi32_si128((bits | bits << 16) as i32))
}

macro_rules! block_kernel {
    ($name:ident, $features:literal, $format:expr, $scales:ident, $sum_products:ident, |$block:ident, $values:ident| $operands:expr) => {
        /// `R` rows at `rows`, `row_bytes` apart, times the vector.
        ///
        /// # Safety
        /// The processor must have the features; each row must hold one block for every block of `x`.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<const R: usize>(rows: *const u8, row_bytes: usize, x: &QuantizedVector) -> [f32; R] {
            const FORMAT: BlockFormat = $format;
            let mut lanes = [_mm256_setzero_ps(); R];
            let mut offsets = [_mm_setzero_ps(); R];
            for (index, scales) in x.scales.iter().enumerate() {
                // SAFETY: `values` holds 32 bytes for each scale, a scale is two f32, and the rows hold as many blocks (see above).
                unsafe {
                    let $values = _mm256_loadu_si256(x.values.as_ptr().add(index * BLOCK).cast());
                    let ahead = rows.wrapping_add(index * R * FORMAT.bytes() + PREFETCH_BYTES).cast();
                    _mm_prefetch::<_MM_HINT_T0>(ahead);
                    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(64));
                    let vector_scales = _mm_castsi128_ps(_mm_loadl_epi64(std::ptr::from_ref(scales).cast()));
                    for row in 0..R {
                        let $block = rows.add(row * row_bytes + index * FORMAT.bytes());
                        let (unsigned, signed): (__m256i, __m256i) = $operands;
                        let factors = _mm_mul_ps($scales($block), vector_scales);
                        let sums = _mm256_cvtepi32_ps($sum_products(unsigned, signed));
                        lanes[row] = _mm256_fmadd_ps(_mm256_broadcastss_ps(factors), sums, lanes[row]);
                        offsets[row] = _mm_add_ps(offsets[row], factors);
                    }
                }
            }
            std::array::from_fn(|row| {
                let mut sums = [0f32; LANES];
                let mut both = [0f32; 4];
                // SAFETY: the arrays are as long as the registers.
                unsafe {
                    _mm256_storeu_ps(sums.as_mut_ptr(), lanes[row]);
                    _mm_storeu_ps(both.as_mut_ptr(), offsets[row]);
                }
                match FORMAT {
                    BlockFormat::Q8_0 => fold_lanes(sums),
                    BlockFormat::Q4_0 | BlockFormat::Q4_1 => fold_lanes(sums) + offset_factor(FORMAT) * both[1],
                }
            })
        }
    };
}

macro_rules! block_kernels {
    ($features:literal, $sum_products:ident, $q4_0:ident, $q4_1:ident, $q8_0:ident) => {
        block_kernel!($q4_0, $features, BlockFormat::Q4_0, one_half_twice, $sum_products, |block, values| {
            (unpack_nibbles(_mm_loadu_si128(block.add(2).cast())), values)
        });
        block_kernel!($q4_1, $features, BlockFormat::Q4_1, two_halves, $sum_products, |block, values| {
            (unpack_nibbles(_mm_loadu_si128(block.add(4).cast())), values)
        });
        block_kernel!($q8_0, $features, BlockFormat::Q8_0, one_half_twice, $sum_products, |block, values| {
            let weights = _mm256_loadu_si256(block.add(2).cast());
            // The weight's sign moves to the vector: one side of the product must be unsigned.
            (_mm256_abs_epi8(weights), _mm256_sign_epi8(values, weights))
        });
    };
}

block_kernels!("avx2,fma,f16c", sum_products_avx2, q4_0_avx2, q4_1_avx2, q8_0_avx2);
block_kernels!("avx512vnni,avx512vl,avx2,fma,f16c", sum_products_vnni, q4_0_vnni, q4_1_vnni, q8_0_vnni);

/// As `fold_float_lanes`: halves upon halves, in the same order.
#[target_feature(enable = "avx2")]
#[inline]
fn fold_registers(lanes: [__m256; FLOAT_LANES / 8]) -> f32 {
    let sixteen = [_mm256_add_ps(lanes[0], lanes[2]), _mm256_add_ps(lanes[1], lanes[3])];
    let eight = _mm256_add_ps(sixteen[0], sixteen[1]);
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

macro_rules! float_kernel {
    ($name:ident, $element:ty, |$at:ident| $load:expr) => {
        /// `R` rows at `rows`, `row_length` elements apart, times the vector.
        ///
        /// # Safety
        /// The processor must have AVX2, FMA and F16C; each row must hold `x.len()` elements.
        #[target_feature(enable = "avx2,fma,f16c")]
        pub(super) unsafe fn $name<const R: usize>(rows: *const $element, row_length: usize, x: &[f32]) -> [f32; R] {
            let mut lanes = [[_mm256_setzero_ps(); FLOAT_LANES / 8]; R];
            let whole = x.len() / FLOAT_LANES * FLOAT_LANES;
            for start in (0..whole).step_by(FLOAT_LANES) {
                if row_length >= LONG_ROW {
                    let ahead = rows.wrapping_add(start * R).cast::<i8>().wrapping_add(PREFETCH_BYTES);
                    for line in 0..R * FLOAT_LANES * size_of::<$element>() / 64 {
                        _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(64 * line));
                    }
                }
                for part in 0..FLOAT_LANES / 8 {
                    let offset = start + 8 * part;
                    // SAFETY: `offset + 8` is within the vector, and so within each row.
                    unsafe {
                        let values = _mm256_loadu_ps(x.as_ptr().add(offset));
                        for (row, lanes) in lanes.iter_mut().enumerate() {
                            let $at = rows.add(row * row_length + offset);
                            lanes[part] = _mm256_fmadd_ps($load, values, lanes[part]);
                        }
                    }
                }
            }
            std::array::from_fn(|row| {
                if whole == x.len() {
                    return fold_registers(lanes[row]);
                }
                let mut sums = [0f32; FLOAT_LANES];
                for part in 0..FLOAT_LANES / 8 {
                    // SAFETY: 8 floats fit from `8 * part`.
                    unsafe { _mm256_storeu_ps(sums.as_mut_ptr().add(8 * part), lanes[row][part]) };
                }
                // SAFETY: the row holds as many elements as the vector.
                let rest = unsafe { std::slice::from_raw_parts(rows.add(row * row_length + whole), x.len() - whole) };
                add_floats(&mut sums, rest, &x[whole..]);
                fold_float_lanes(sums)
            })
        }
    };
}

float_kernel!(f32_avx2, f32, |at| _mm256_loadu_ps(at));
float_kernel!(f16_avx2, f16, |at| _mm256_cvtph_ps(_mm_loadu_si128(at.cast())));
float_kernel!(bf16_avx2, bf16, |at| {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()))))
});
