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
const MAX_RESULTS: usize = 3;
const MAX_INPUTS: usize = 2;
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
    /// What is added, laid out as `out`; may be `out`. Not with a gate.
    pub start: Option<DevicePointer>,
    pub finish: LinearFinish,
    pub out: DevicePointer,
}

/// What becomes of the sums.
#[derive(Clone, Copy, Debug)]
pub enum LinearFinish {
    /// They are the result.
    Plain,
    Rope(LinearRope),
    /// The result is `up` of a gated activation: also `activated = silu(gate) · up`. In a forward pass.
    Gated(LinearGate),
    /// They are the gradient of `activated`: `gate` and `out`, which holds `up`, are replaced by their gradients, and `activated` is computed
    /// once more. In a backward pass.
    GatedBackward(LinearGate),
}

/// Operands of a gated activation besides the result, laid out as it.
#[derive(Clone, Copy, Debug)]
pub struct LinearGate {
    pub gate: DevicePointer,
    pub activated: DevicePointer,
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
    results: [MaybeUninit<sys::CUtensorMap>; MAX_RESULTS],
    inputs: [MaybeUninit<sys::CUtensorMap>; MAX_INPUTS],
    angles: DevicePointer,
    positions: DevicePointer,
    depths: [i32; MAX_SEGMENTS],
    segment_count: i32,
    input_count: i32,
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

impl LinearFinish {
    fn gate(&self) -> Option<LinearGate> {
        match self {
            Self::Gated(gate) | Self::GatedBackward(gate) => Some(*gate),
            Self::Plain | Self::Rope(_) => None,
        }
    }

    /// Whether kernels do this to sums of so many columns, without a start or with one.
    fn fits(&self, turned: bool, columns: usize, start: bool) -> bool {
        match self {
            Self::Plain => true,
            Self::Rope(rope) => !turned && !start && rope.fits(columns),
            Self::Gated(_) => !turned && !start,
            Self::GatedBackward(_) => turned && !start,
        }
    }

    /// Where results go, in the kernels' order.
    fn results(&self, out: DevicePointer) -> Vec<DevicePointer> {
        match self {
            Self::Plain | Self::Rope(_) => vec![out],
            Self::Gated(LinearGate { activated, .. }) => vec![*activated, out],
            Self::GatedBackward(LinearGate { gate, activated }) => vec![*gate, out, *activated],
        }
    }

    /// What sums meet, in the kernels' order.
    fn inputs(&self, start: Option<DevicePointer>, out: DevicePointer) -> Vec<DevicePointer> {
        match self {
            Self::Plain | Self::Rope(_) => start.into_iter().collect(),
            Self::Gated(LinearGate { gate, .. }) => vec![*gate],
            Self::GatedBackward(LinearGate { gate, .. }) => vec![*gate, out],
        }
    }

    /// Of a kernel's name.
    fn form(&self, turned: bool) -> String {
        match self {
            Self::Plain if turned => "_turned".to_owned(),
            Self::Plain => String::new(),
            Self::Rope(rope) => format!("_rope_{}", rope.head_dim),
            Self::Gated(_) => "_gated".to_owned(),
            Self::GatedBackward(_) => "_turned_gated".to_owned(),
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
        let gate = self.finish.gate().map_or([0; 2], |LinearGate { gate, activated }| [gate, activated]);
        let results = [self.out, self.start.unwrap_or(0), gate[0], gate[1]];
        let results = results.iter().all(|pointer| pointer.is_multiple_of(ALIGNMENT));
        kind != NumberType::F32 && whole(self.columns) && segments && results
    }

    /// Tiles that a cluster works on at a time.
    fn cluster_tiles(&self) -> usize {
        self.rows.div_ceil(CLUSTER * TILE_ROWS) * self.columns.div_ceil(TILE_COLUMNS)
    }
}

impl Stream {
    /// Whether [`Stream::linear`] does this product here, and is worth it: on compute capability 9.0, 16-bit numbers, operands that begin at and
    /// have rows of multiples of 16 bytes, heads of 64 or 128 where there is rope, and enough tiles to fill the card.
    pub fn takes_linear(&self, kind: NumberType, product: &LinearProduct<'_>) -> bool {
        let count = product.segments.len();
        if !self.has_warpgroup_products() || !(1..=MAX_SEGMENTS).contains(&count) || !product.is_aligned(kind) {
            return false;
        }
        if !product.finish.fits(product.is_turned(), product.columns, product.start.is_some()) {
            return false;
        }
        let (tile, clusters) = (CLUSTER * TILE_ROWS * TILE_COLUMNS, self.multiprocessors() / CLUSTER);
        let rounds = product.cluster_tiles().div_ceil(clusters.max(1));
        (product.rows * product.columns) as f64 >= LEAST_USE * (rounds * clusters * tile) as f64
    }

    /// Starts a product that [`Stream::takes_linear`].
    ///
    /// # Safety
    /// Operands have these sizes and the type `kind`; results overlap no operand but `start`, or, of a gate's backward pass, those they replace.
    pub unsafe fn linear(&self, kind: NumberType, product: &LinearProduct<'_>) -> Result<()> {
        let LinearProduct { rows, columns, segments, start, finish, out } = *product;
        self.enter()?;
        let turned = product.is_turned();
        let rope = match finish {
            LinearFinish::Rope(rope) => Some(rope),
            _ => None,
        };
        let mut parameters = Parameters {
            segments: [MaybeUninit::zeroed(); MAX_SEGMENTS],
            results: [MaybeUninit::zeroed(); MAX_RESULTS],
            inputs: [MaybeUninit::zeroed(); MAX_INPUTS],
            angles: rope.map_or(0, |rope| rope.angles),
            positions: rope.map_or(0, |rope| rope.positions),
            depths: [0; MAX_SEGMENTS],
            segment_count: segments.len() as i32,
            input_count: 0,
            rows: rows as i32,
            columns: columns as i32,
        };
        let whole = |pointer, tile| Tiled { pointer, inner: columns, outer: rows, stride: columns, tile }.map(kind);
        for (map, pointer) in parameters.results.iter_mut().zip(finish.results(out)) {
            map.write(whole(pointer, [OUT_WIDTH, TILE_ROWS / 2])?);
        }
        for (map, pointer) in parameters.inputs.iter_mut().zip(finish.inputs(start, out)) {
            map.write(whole(pointer, [OUT_WIDTH, TILE_ROWS])?);
            parameters.input_count += 1;
        }
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
        let name = format!("linear{}_{}", finish.form(turned), kind.name());
        // SAFETY: the caller's promise; the kernel's parameter.
        unsafe { launch!(self, &name, launch, parameters) }
    }
}
