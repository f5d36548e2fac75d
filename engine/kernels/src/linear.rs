//! Products of linear layers with their low-rank halves, on compute capability 9.0.

use std::mem::MaybeUninit;

use cudarc::driver::sys;

use crate::error::{CudaError, Result};
use crate::matmul::Operand;
use crate::stream::{DevicePointer, Launch, NumberType, Stream, launch};

/// As in `linear.cu`.
const TILE_ROWS: usize = 128;
const TILE_COLUMNS: usize = 256;
const TILE_DEPTH: usize = 64;
const CLUSTER: usize = 2;
const OUT_WIDTH: usize = 64;
const MAX_SEGMENTS: usize = 4;
const THREADS: u32 = 384;
/// All that a block can have.
const SHARED_BYTES: u32 = 227 << 10;
/// Part of the card's work on tiles that must be on numbers asked for; where there are too few tiles, the library's smaller ones do better.
const LEAST_USE: f64 = 0.75;
/// Copies of tiles need rows and beginnings that are multiples of it.
const ALIGNMENT: u64 = 16;

/// `a [rows, depth] · b [depth, columns]`
#[derive(Clone, Copy, Debug)]
pub struct LinearSegment {
    pub depth: usize,
    /// Its columns are neighbours.
    pub a: Operand,
    pub b: Operand,
}

/// `out [rows, columns] = Σ a_i · b_i (+ start)`, summed in f32. Either the rows of every `b` are neighbours, as in a layer's forward pass, or
/// the columns of every one, as in the gradient of its input.
#[derive(Clone, Copy, Debug)]
pub struct LinearProduct<'a> {
    pub rows: usize,
    pub columns: usize,
    pub segments: &'a [LinearSegment],
    /// What is added, laid out as `out`; may be `out`.
    pub start: Option<DevicePointer>,
    /// Applied to the sums.
    pub rope: Option<LinearRope>,
    pub out: DevicePointer,
}

/// Rope of a result whose columns are heads: number i of a head's first half is a pair with number i of the second.
#[derive(Clone, Copy, Debug)]
pub struct LinearRope {
    pub head_dim: usize,
    /// f32 `[positions, head_dim]`: cosines, then sines, of the pairs.
    pub angles: DevicePointer,
    /// u32 `[rows]`
    pub positions: DevicePointer,
}

impl LinearRope {
    /// Whether kernels have heads of this size.
    fn fits(&self, columns: usize) -> bool {
        matches!(self.head_dim, 64 | 128) && columns.is_multiple_of(self.head_dim)
    }
}

/// The kernels' `Segment`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Segment {
    a: sys::CUtensorMap,
    b: sys::CUtensorMap,
}

/// The kernels' `LinearProduct`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameters {
    segments: [MaybeUninit<Segment>; MAX_SEGMENTS],
    out: sys::CUtensorMap,
    start: DevicePointer,
    angles: DevicePointer,
    positions: DevicePointer,
    depths: [i32; MAX_SEGMENTS],
    segment_count: i32,
    rows: i32,
    columns: i32,
}

/// A matrix of which tiles are copied: `outer` runs of `inner` neighbours, `stride` apart.
struct Tiled {
    pointer: DevicePointer,
    inner: usize,
    outer: usize,
    stride: usize,
    /// Neighbours and runs of a tile.
    tile: [usize; 2],
}

impl Tiled {
    fn map(&self, kind: NumberType) -> Result<sys::CUtensorMap> {
        let data_type = match kind {
            NumberType::F32 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
            NumberType::F16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            NumberType::BF16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        };
        let sizes = [self.inner as u64, self.outer as u64];
        let stride_bytes = (self.stride * kind.bytes()) as u64;
        let (tile, steps) = (self.tile.map(|size| size as u32), [1u32; 2]);
        let mut map = MaybeUninit::uninit();
        // SAFETY: arrays of the rank given, which is 2; the driver fills the map or fails.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                map.as_mut_ptr(),
                data_type,
                2,
                self.pointer as *mut std::ffi::c_void,
                sizes.as_ptr(),
                &raw const stride_bytes,
                tile.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
            .result()
            .map_err(|error| CudaError::new("describing a matrix for copies of its tiles", &error))?;
            Ok(map.assume_init())
        }
    }
}

impl LinearProduct<'_> {
    fn is_turned(&self) -> bool {
        self.segments.iter().all(|segment| segment.b.column_stride == 1)
    }

    /// Whether operands have the types and places that copies of tiles need.
    fn is_aligned(&self, kind: NumberType) -> bool {
        let whole = |stride: usize| ((stride * kind.bytes()) as u64).is_multiple_of(ALIGNMENT);
        let turned = self.is_turned();
        let segments = self.segments.iter().all(|LinearSegment { depth, a, b }| {
            let (stride, neighbours) =
                if turned { (b.row_stride, b.column_stride) } else { (b.column_stride, b.row_stride) };
            let operands = [(a, a.row_stride, a.column_stride), (b, stride, neighbours)];
            let fits = |(operand, stride, neighbours): (&Operand, usize, usize)| {
                operand.pointer.is_multiple_of(ALIGNMENT) && whole(stride) && neighbours == 1
            };
            *depth > 0 && operands.into_iter().all(fits)
        });
        let results = [self.out, self.start.unwrap_or(0)].iter().all(|pointer| pointer.is_multiple_of(ALIGNMENT));
        kind != NumberType::F32 && whole(self.columns) && segments && results
    }

    /// Tiles that a cluster works on at a time.
    fn cluster_tiles(&self) -> usize {
        self.rows.div_ceil(CLUSTER * TILE_ROWS) * self.columns.div_ceil(TILE_COLUMNS)
    }
}

impl Stream {
    /// Whether [`Stream::linear`] does this product here, and is worth it: on compute capability 9.0, 16-bit numbers, operands that begin at and
    /// have rows of multiples of 16 bytes, heads of 64 or 128 where there
    /// is rope, and enough tiles to fill the card.
    pub fn takes_linear(&self, kind: NumberType, product: &LinearProduct<'_>) -> bool {
        let count = product.segments.len();
        if !self.has_warpgroup_products() || !(1..=MAX_SEGMENTS).contains(&count) || !product.is_aligned(kind) {
            return false;
        }
        if product.rope.is_some_and(|rope| product.is_turned() || !rope.fits(product.columns)) {
            return false;
        }
        let (tile, clusters) = (CLUSTER * TILE_ROWS * TILE_COLUMNS, self.multiprocessors() / CLUSTER);
        let rounds = product.cluster_tiles().div_ceil(clusters.max(1));
        (product.rows * product.columns) as f64 >= LEAST_USE * (rounds * clusters * tile) as f64
    }

    /// Starts a product that [`Stream::takes_linear`].
    ///
    /// # Safety
    /// Operands have these sizes and the type `kind`; `out` overlaps none but `start`.
    pub unsafe fn linear(&self, kind: NumberType, product: &LinearProduct<'_>) -> Result<()> {
        let LinearProduct { rows, columns, segments, start, rope, out } = *product;
        self.enter()?;
        let turned = product.is_turned();
        let out =
            Tiled { pointer: out, inner: columns, outer: rows, stride: columns, tile: [OUT_WIDTH, TILE_ROWS / 2] };
        let mut parameters = Parameters {
            segments: [MaybeUninit::zeroed(); MAX_SEGMENTS],
            out: out.map(kind)?,
            start: start.unwrap_or(0),
            angles: rope.map_or(0, |rope| rope.angles),
            positions: rope.map_or(0, |rope| rope.positions),
            depths: [0; MAX_SEGMENTS],
            segment_count: segments.len() as i32,
            rows: rows as i32,
            columns: columns as i32,
        };
        for (i, LinearSegment { depth, a, b }) in segments.iter().enumerate() {
            let (inner, outer, stride, tile) = if turned {
                (columns, *depth, b.row_stride, [OUT_WIDTH, TILE_DEPTH])
            } else {
                (*depth, columns, b.column_stride, [TILE_DEPTH, TILE_COLUMNS / CLUSTER])
            };
            let b = Tiled { pointer: b.pointer, inner, outer, stride, tile };
            let tile = [TILE_DEPTH, TILE_ROWS];
            let a = Tiled { pointer: a.pointer, inner: *depth, outer: rows, stride: a.row_stride, tile };
            parameters.segments[i].write(Segment { a: a.map(kind)?, b: b.map(kind)? });
            parameters.depths[i] = *depth as i32;
        }
        let clusters = product.cluster_tiles().min(self.multiprocessors() / CLUSTER);
        let grid = [(clusters * CLUSTER) as u32, 1, 1];
        let launch = Launch { grid, threads: THREADS, shared_bytes: SHARED_BYTES };
        let form = match rope {
            Some(rope) => format!("_rope_{}", rope.head_dim),
            None if turned => "_turned".to_owned(),
            None => String::new(),
        };
        let name = format!("linear{form}_{}", kind.name());
        // SAFETY: the caller's promise; the kernel's parameter.
        unsafe { launch!(self, &name, launch, parameters) }
    }
}
