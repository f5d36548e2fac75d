//! Launchers of attention.

use crate::error::Result;
use crate::stream::{DevicePointer, Launch, NumberType, Stream, launch};

/// Largest head size.
pub const MAX_HEAD_DIM: usize = 128;
/// Rows of a tile and threads of a block; as in `attention.cu`.
const TILE: usize = 32;
const THREADS: u32 = 256;
/// As in `tensor_cores.cuh`.
const TENSOR_CORE_TILE: usize = 64;
const TENSOR_CORE_THREADS: u32 = 128;

/// Sizes of attention over packed sequences.
#[derive(Clone, Copy, Debug)]
pub struct AttentionSizes {
    pub sequences: usize,
    /// Rows of the longest sequence.
    pub longest: usize,
    /// Of all sequences.
    pub rows: usize,
    pub heads: usize,
    pub key_value_heads: usize,
    /// At most [`MAX_HEAD_DIM`].
    pub head_dim: usize,
    /// Last positions that a position sees, itself among them; at least 1. None: all positions before it.
    pub window: Option<usize>,
    /// Scores fall with distance, by ALiBi's slope of each head.
    pub alibi: bool,
}

/// The kernels' `Shape`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    heads: i32,
    key_value_heads: i32,
    head_dim: i32,
    window: i32,
    scale: f32,
    alibi_heads: i32,
}

impl Shape {
    /// For sequences of at most `longest` positions: a window that is none, or longer, becomes that long.
    pub fn new(
        [heads, key_value_heads, head_dim]: [usize; 3],
        window: Option<usize>,
        alibi: bool,
        longest: usize,
    ) -> Self {
        Self {
            heads: heads as i32,
            key_value_heads: key_value_heads as i32,
            head_dim: head_dim as i32,
            window: window.map_or(longest, |window| window.min(longest)) as i32,
            scale: (1.0 / (head_dim as f64).sqrt()) as f32,
            alibi_heads: if alibi { 1 << heads.ilog2() } else { 0 },
        }
    }
}

impl AttentionSizes {
    fn shape(self) -> Shape {
        Shape::new([self.heads, self.key_value_heads, self.head_dim], self.window, self.alibi, self.longest)
    }

    /// Whether the kernels for tensor cores can take it.
    fn on_tensor_cores(self, kind: NumberType) -> bool {
        kind != NumberType::F32 && matches!(self.head_dim, 64 | 128)
    }

    /// For so many tiles of rows of a head and, on ordinary cores, of scores, in shared memory.
    fn launch(self, kind: NumberType, heads: usize, [row_tiles, score_tiles]: [usize; 2]) -> Launch {
        let tile = if self.on_tensor_cores(kind) { TENSOR_CORE_TILE } else { TILE };
        let grid = [self.longest.div_ceil(tile) as u32, heads as u32, self.sequences as u32];
        let (threads, bytes) = if self.on_tensor_cores(kind) {
            // Besides, two sums of each row of two tiles.
            let sums = 4 * TENSOR_CORE_TILE * size_of::<f32>();
            (TENSOR_CORE_THREADS, row_tiles * tile * self.head_dim * kind.bytes() + sums)
        } else {
            let numbers = row_tiles * TILE * (self.head_dim + 1) + score_tiles * TILE * (TILE + 1);
            (THREADS, numbers * size_of::<f32>())
        };
        Launch { grid, threads, shared_bytes: bytes as u32 }
    }

    fn kernel(self, name: &str, kind: NumberType) -> String {
        let size = if self.head_dim <= 64 { 64 } else { MAX_HEAD_DIM };
        let place = if self.on_tensor_cores(kind) { "tensor_core_" } else { "" };
        format!("{place}{name}_{size}_{}", kind.name())
    }

    /// Tiles of rows in shared memory on either kind of cores.
    fn tiles(self, kind: NumberType, ordinary: usize, tensor_cores: usize) -> usize {
        if self.on_tensor_cores(kind) { tensor_cores } else { ordinary }
    }
}

/// Addresses for the forward pass. Queries and output `[rows, heads, head_dim]`, keys and values `[rows, key_value_heads, head_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct AttentionArrays {
    /// `[sequences + 1]` u32
    pub borders: DevicePointer,
    pub query: DevicePointer,
    pub key: DevicePointer,
    pub value: DevicePointer,
    pub output: DevicePointer,
    /// `[rows, heads]` f32
    pub log_sum_exp: DevicePointer,
}

/// What the backward pass has besides.
#[derive(Clone, Copy, Debug)]
pub struct AttentionBackwardArrays {
    pub output_grad: DevicePointer,
    pub query_grad: DevicePointer,
    pub key_grad: DevicePointer,
    pub value_grad: DevicePointer,
}

impl Stream {
    /// Causal attention inside each sequence, within the window; scores scaled by 1/√head_dim.
    ///
    /// # Safety
    /// Arrays have these sizes; `borders` rises from 0 to `rows`.
    pub unsafe fn attention(&self, kind: NumberType, sizes: AttentionSizes, arrays: &AttentionArrays) -> Result<()> {
        let AttentionArrays { borders, query, key, value, output, log_sum_exp } = *arrays;
        let (name, shape) = (sizes.kernel("attention", kind), sizes.shape());
        let launch = sizes.launch(kind, sizes.heads, [sizes.tiles(kind, 3, 5), 1]);
        // SAFETY: the caller's promise; the kernel's parameters in order, here and below.
        unsafe { launch!(self, &name, launch, shape, borders, query, key, value, output, log_sum_exp) }
    }

    /// Gradients of [`Self::attention`]. `pull`: scratch for `[rows, heads]` f32.
    ///
    /// # Safety
    /// As there.
    pub unsafe fn attention_backward(
        &self,
        kind: NumberType,
        sizes: AttentionSizes,
        arrays: &AttentionArrays,
        backward: &AttentionBackwardArrays,
        pull: DevicePointer,
    ) -> Result<()> {
        let AttentionArrays { borders, query, key, value, output, log_sum_exp } = *arrays;
        let AttentionBackwardArrays { output_grad, query_grad, key_grad, value_grad } = *backward;
        let shape = sizes.shape();
        let count = sizes.rows * sizes.heads;
        let name = format!("attention_pull_{}", kind.name());
        let launch = Launch::blocks((count * 32).div_ceil(256), 256);
        // SAFETY: as above.
        unsafe {
            launch!(self, &name, launch, count, sizes.head_dim as i32, output, output_grad, pull)?;
            let name = sizes.kernel("attention_query_gradient", kind);
            let launch = sizes.launch(kind, sizes.heads, [sizes.tiles(kind, 4, 6), 1]);
            launch!(
                self,
                &name,
                launch,
                shape,
                borders,
                query,
                key,
                value,
                output_grad,
                log_sum_exp,
                pull,
                query_grad
            )?;
            let name = sizes.kernel("attention_key_value_gradient", kind);
            let launch = sizes.launch(kind, sizes.key_value_heads, [sizes.tiles(kind, 4, 6), 2]);
            launch!(
                self,
                &name,
                launch,
                shape,
                borders,
                query,
                key,
                value,
                output_grad,
                log_sum_exp,
                pull,
                key_grad,
                value_grad
            )
        }
    }
}
