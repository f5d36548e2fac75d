//! Launchers of the low-rank halves' kernels.

use crate::error::Result;
use crate::low_rank_sizes::{BLOCK_COLUMNS, LowRankSizes, MAX_LAYERS, MAX_RANK, RUN, TILE_ROWS, steps};
use crate::matmul::Operand;
use crate::stream::{DevicePointer, Launch, NumberType, Stream, launch};

/// As in `low_rank.cu`.
const EXPAND_COLUMNS: usize = 4 * 64;
const EXPAND_ROWS: usize = 32;
const EXPAND_THREADS: u32 = 128;
const BLOCK_THREADS: u32 = 128;
const STAGES: usize = 3;
const PAD: usize = 8;

/// `out [rows, columns] = start + left [rows, rank] · right [rank, columns]`
#[derive(Clone, Copy, Debug)]
pub struct LowRankExpansion {
    pub rows: usize,
    pub columns: usize,
    pub rank: usize,
    /// Its columns are neighbours.
    pub left: Operand,
    pub right: Operand,
    /// None: from zero. May be `out`.
    pub start: Option<DevicePointer>,
    pub out: DevicePointer,
}

impl LowRankExpansion {
    /// Whether the kernel takes numbers of this type and these sizes.
    pub fn fits(&self, kind: NumberType) -> bool {
        let aligned = [self.out, self.start.unwrap_or(0)].iter().all(|pointer| pointer.is_multiple_of(16));
        let sizes = self.rank <= MAX_RANK && self.rows > 0 && self.columns.is_multiple_of(RUN);
        kind != NumberType::F32 && aligned && sizes && self.left.column_stride == 1
    }
}

/// One of the layers whose gradients are taken together.
#[derive(Clone, Copy, Debug)]
pub struct LowRankLayer {
    pub out_features: usize,
    /// `[rows, out_features]`
    pub output_grad: DevicePointer,
    /// B `[out_features, rank]`, in the type of `output_grad`.
    pub b: DevicePointer,
    /// Gradient of B, f32: added to.
    pub b_grad: DevicePointer,
    /// First column of the layer's products in `hidden`, and of their gradients in `hidden_grad`.
    pub hidden_column: usize,
    pub grad_column: usize,
}

/// Gradients of layers that share an input: `hidden_grad = scale · g · B` and `b_grad += gᵀ · hidden`, with one pass over each g.
#[derive(Clone, Copy, Debug)]
pub struct LowRankGradients<'a> {
    pub rows: usize,
    pub rank: usize,
    pub scale: f32,
    /// `[rows, hidden_stride]`: scaled products of the input with A.
    pub hidden: DevicePointer,
    pub hidden_stride: usize,
    /// `[rows, grad_stride]`
    pub hidden_grad: DevicePointer,
    pub grad_stride: usize,
    pub layers: &'a [LowRankLayer],
}

/// The kernels' `Expansion`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Expansion {
    rows: i32,
    columns: i32,
    rank: i32,
    left_stride: i32,
    right_row_stride: i32,
    right_column_stride: i32,
}

/// The kernels' `Layer`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Layer {
    output_grad: DevicePointer,
    b: DevicePointer,
    b_grad: DevicePointer,
    of_columns: DevicePointer,
    of_rows: DevicePointer,
    out_features: i32,
    hidden_column: i32,
    grad_column: i32,
}

/// The kernels' `Gradients`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Gradients {
    layers: [Layer; MAX_LAYERS],
    hidden: DevicePointer,
    hidden_grad: DevicePointer,
    hidden_stride: i32,
    grad_stride: i32,
    rows: i32,
    rank: i32,
    scale: f32,
}

impl LowRankGradients<'_> {
    /// Calls `work` with its sizes.
    fn with_sizes<R>(&self, work: impl FnOnce(LowRankSizes<'_>) -> R) -> R {
        let out_features: Vec<usize> = self.layers.iter().map(|layer| layer.out_features).collect();
        work(LowRankSizes { rows: self.rows, rank: self.rank, out_features: &out_features })
    }

    /// Whether the kernels take numbers of this type and these sizes.
    pub fn fits(&self, kind: NumberType) -> bool {
        let aligned = self.layers.iter().all(|layer| layer.output_grad.is_multiple_of(16));
        aligned && self.with_sizes(|sizes| sizes.fit(kind))
    }

    /// As [`LowRankSizes::scratch_bytes`].
    pub fn scratch_bytes(&self) -> usize {
        self.with_sizes(|sizes| sizes.scratch_bytes())
    }
}

impl Stream {
    /// Does a [`LowRankExpansion`] that [`LowRankExpansion::fits`].
    ///
    /// # Safety
    /// Operands have these sizes and the type `kind`.
    pub unsafe fn low_rank_expand(&self, kind: NumberType, expansion: &LowRankExpansion) -> Result<()> {
        let LowRankExpansion { rows, columns, rank, left, right, start, out } = *expansion;
        let sizes = Expansion {
            rows: rows as i32,
            columns: columns as i32,
            rank: rank as i32,
            left_stride: left.row_stride as i32,
            right_row_stride: right.row_stride as i32,
            right_column_stride: right.column_stride as i32,
        };
        let name = format!("low_rank_expand_{}_{}", steps(rank), kind.name());
        let grid = [columns.div_ceil(EXPAND_COLUMNS) as u32, rows.div_ceil(EXPAND_ROWS) as u32, 1];
        let launch = Launch { grid, threads: EXPAND_THREADS, shared_bytes: 0 };
        // SAFETY: the caller's promise; the kernel's parameters in order, here and below.
        unsafe { launch!(self, &name, launch, sizes, left.pointer, right.pointer, start.unwrap_or(0), out) }
    }

    /// Does [`LowRankGradients`] that [`LowRankGradients::fits`].
    ///
    /// # Safety
    /// Operands have these sizes and the type `kind`; `scratch` has [`LowRankGradients::scratch_bytes`].
    pub unsafe fn low_rank_gradients(
        &self,
        kind: NumberType,
        gradients: &LowRankGradients<'_>,
        scratch: DevicePointer,
    ) -> Result<()> {
        let LowRankGradients { rows, rank, scale, hidden, hidden_stride, hidden_grad, grad_stride, layers } =
            *gradients;
        let mut arguments = Gradients {
            layers: [Layer::default(); MAX_LAYERS],
            hidden,
            hidden_grad,
            hidden_stride: hidden_stride as i32,
            grad_stride: grad_stride as i32,
            rows: rows as i32,
            rank: rank as i32,
            scale,
        };
        let mut free = scratch;
        let sizes = LowRankSizes { rows, rank, out_features: &[] };
        for (to, layer) in arguments.layers.iter_mut().zip(layers) {
            let [of_columns, of_rows] =
                sizes.sums(layer.out_features).map(|numbers| (numbers * size_of::<f32>()) as u64);
            *to = Layer {
                output_grad: layer.output_grad,
                b: layer.b,
                b_grad: layer.b_grad,
                of_columns: free,
                of_rows: free + of_columns,
                out_features: layer.out_features as i32,
                hidden_column: layer.hidden_column as i32,
                grad_column: layer.grad_column as i32,
            };
            free += of_columns + of_rows;
        }
        let (width, block_rows) = (sizes.width(), sizes.block_rows());
        let widest = layers.iter().map(|layer| layer.out_features).max().unwrap_or(0);
        let blocks = [widest.div_ceil(BLOCK_COLUMNS) as u32, rows.div_ceil(block_rows) as u32, layers.len() as u32];
        let numbers = STAGES * TILE_ROWS * TILE_ROWS + width * (block_rows + BLOCK_COLUMNS + 2 * PAD);
        let launch = Launch { grid: blocks, threads: BLOCK_THREADS, shared_bytes: (numbers * kind.bytes()) as u32 };
        let name = format!("low_rank_gradients_{}_{}", steps(rank), kind.name());
        // SAFETY: as above.
        unsafe {
            launch!(self, &name, launch, arguments)?;
            let threads = 256;
            let sums = ((rows + widest) * width).div_ceil(threads as usize) as u32;
            let launch = Launch { grid: [sums, 1, layers.len() as u32], threads, shared_bytes: 0 };
            let name = format!("low_rank_gather_{}", kind.name());
            launch!(self, &name, launch, arguments, width as i32, block_rows as i32)
        }
    }
}
