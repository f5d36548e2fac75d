//! Dot products of stored weight rows with one vector: the arithmetic of decoding, defined by portable code.
//!
//! Every instruction set gives the same bits as the code here: sums run in the same eight (or 32) lanes and are folded in the same order,
//! every rounding step is the same one. A processor without fused multiply-add pays for that with a library call.

use half::{bf16, f16};

use super::decode_quantize::{BLOCK, BlockScale, QuantizedVector};

/// Lanes of the quantized sums: products are added four neighbours at a time.
pub(super) const LANES: usize = 8;
/// Lanes of the floating-point sums.
pub(super) const FLOAT_LANES: usize = 32;

/// Rows that a kernel reads in one go, sharing its loads of the vector.
pub(super) const ROWS: usize = 4;

/// GGML types with blocks of 32 that have kernels of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockFormat {
    /// f16 scale, 16 bytes of nibbles: `d * (q - 8)`.
    Q4_0,
    /// f16 scale, f16 offset, 16 bytes of nibbles: `d * q + m`.
    Q4_1,
    /// f16 scale, 32 signed bytes: `d * q`.
    Q8_0,
}

impl BlockFormat {
    /// Bytes of one block.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q8_0 => 34,
        }
    }
}

/// Sum of the lanes, halves folded upon halves.
pub(super) fn fold_lanes(mut lanes: [f32; LANES]) -> f32 {
    for width in [4, 2, 1] {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0]
}

/// As [`fold_lanes`] for the floating-point sums.
pub(super) fn fold_float_lanes(mut lanes: [f32; FLOAT_LANES]) -> f32 {
    for width in [16, 8, 4, 2, 1] {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0]
}

/// The integer and the half-precision scale parts of one weight block.
struct Block {
    scale: f32,
    /// Factor of the vector's scaled sum, before `offset_factor`.
    offset: f32,
    values: [i32; BLOCK],
}

fn half_at(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

fn nibbles(bytes: &[u8]) -> [i32; BLOCK] {
    std::array::from_fn(|i| i32::from(if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 }))
}

fn read_block(format: BlockFormat, bytes: &[u8]) -> Block {
    let scale = half_at(bytes);
    match format {
        BlockFormat::Q4_0 => Block { scale, offset: scale, values: nibbles(&bytes[2..]) },
        BlockFormat::Q4_1 => Block { scale, offset: half_at(&bytes[2..]), values: nibbles(&bytes[4..]) },
        BlockFormat::Q8_0 => {
            Block { scale, offset: 0.0, values: std::array::from_fn(|i| i32::from(bytes[2 + i] as i8)) }
        }
    }
}

/// What the sum of offsets is multiplied with at the end of a row.
pub(super) const fn offset_factor(format: BlockFormat) -> f32 {
    match format {
        BlockFormat::Q4_0 => -8.0,
        BlockFormat::Q4_1 => 1.0,
        BlockFormat::Q8_0 => 0.0,
    }
}

/// Row · vector for a row of quantized blocks.
pub(super) fn dot_blocks(format: BlockFormat, row: &[u8], x: &QuantizedVector) -> f32 {
    let mut lanes = [0f32; LANES];
    let mut offsets = 0f32;
    let blocks = row.chunks_exact(format.bytes()).zip(x.values.chunks_exact(BLOCK)).zip(&x.scales);
    for ((bytes, values), BlockScale { scale, scaled_sum }) in blocks {
        let block = read_block(format, bytes);
        let factor = block.scale * scale;
        for (lane, sum) in lanes.iter_mut().enumerate() {
            let products = (4 * lane..4 * lane + 4).map(|i| block.values[i] * i32::from(values[i]));
            *sum = factor.mul_add(products.sum::<i32>() as f32, *sum);
        }
        offsets += block.offset * scaled_sum;
    }
    match format {
        BlockFormat::Q8_0 => fold_lanes(lanes),
        BlockFormat::Q4_0 | BlockFormat::Q4_1 => fold_lanes(lanes) + offset_factor(format) * offsets,
    }
}

/// An element type of unquantized rows.
pub(super) trait FloatElement: Copy {
    fn to_f32(self) -> f32;
}

impl FloatElement for f32 {
    fn to_f32(self) -> f32 {
        self
    }
}

impl FloatElement for f16 {
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
}

impl FloatElement for bf16 {
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
}

/// Row · vector for an unquantized row: element i is added to lane i mod 32.
pub(super) fn dot_floats<T: FloatElement>(row: &[T], x: &[f32]) -> f32 {
    let mut lanes = [0f32; FLOAT_LANES];
    add_floats(&mut lanes, row, x);
    fold_float_lanes(lanes)
}

/// The products of `row` and `x` added to the lanes, beginning with lane 0.
pub(super) fn add_floats<T: FloatElement>(lanes: &mut [f32; FLOAT_LANES], row: &[T], x: &[f32]) {
    for (row, x) in row.chunks(FLOAT_LANES).zip(x.chunks(FLOAT_LANES)) {
        for ((sum, weight), x) in lanes.iter_mut().zip(row).zip(x) {
            *sum = weight.to_f32().mul_add(*x, *sum);
        }
    }
}
