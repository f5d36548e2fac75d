//! What a device must be able to do. The decoder's forward and backward passes are written once against [`Ops`].

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod dropout;
mod gated;
mod host_values;
mod low_rank;
mod noise;
mod prices;
mod view;
mod window;

pub use dropout::DropoutMask;
pub use gated::{GatedBackward, GatedForward};
pub use host_values::HostValues;
pub use low_rank::{LowRankGradients, LowRankLayer, LowRankTerm};
pub use noise::UniformNoise;
pub use prices::{BatchSizes, MemoryPrices, MemoryRoom, PlacedBytes, ScratchDemand};
pub use view::{Matrix, MatrixMut, View, ViewMut};

pub(crate) use window::seen_positions;

use std::collections::BTreeMap;
use std::ops::Range;

pub use crate::config::RopePairs;
use crate::error::{EngineError, Result};
use crate::tensor::HostTensor;

/// A number that a device computes with.
pub trait Element: Copy + Send + Sync + PartialEq + std::fmt::Debug + 'static {
    /// Rounds to the nearest representable number.
    fn from_f64(value: f64) -> Self;
    /// Exact.
    fn to_f64(self) -> f64;
    /// Numbers with their type.
    fn into_host(values: Vec<Self>) -> HostValues;
    /// Numbers of this type; none of another.
    fn from_host(values: HostValues) -> Option<Vec<Self>>;
    /// As [`Self::from_host`], in place.
    fn of_host(values: &HostValues) -> Option<&[Self]>;
}

impl Element for f32 {
    fn from_f64(value: f64) -> Self {
        value as f32
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn into_host(values: Vec<Self>) -> HostValues {
        HostValues::F32(values)
    }
    fn from_host(values: HostValues) -> Option<Vec<Self>> {
        if let HostValues::F32(values) = values { Some(values) } else { None }
    }
    fn of_host(values: &HostValues) -> Option<&[Self]> {
        if let HostValues::F32(values) = values { Some(values) } else { None }
    }
}

impl Element for f64 {
    fn from_f64(value: f64) -> Self {
        value
    }
    fn to_f64(self) -> f64 {
        self
    }
    fn into_host(values: Vec<Self>) -> HostValues {
        HostValues::F64(values)
    }
    fn from_host(values: HostValues) -> Option<Vec<Self>> {
        if let HostValues::F64(values) = values { Some(values) } else { None }
    }
    fn of_host(values: &HostValues) -> Option<&[Self]> {
        if let HostValues::F64(values) = values { Some(values) } else { None }
    }
}

/// Bytes a device has handed out: activations, adapters, optimizer state, scratch and weights in memory of their own. Mapped files count
/// as weights of the model, not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    pub allocated_bytes: u64,
    pub peak_allocated_bytes: u64,
    /// Locked memory of the host that a GPU uses, now; not among the others.
    pub pinned_host_bytes: u64,
}

/// Where a frozen embedding table is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EmbeddingPlace {
    /// In the memory that the device computes in.
    #[default]
    Device,
    /// In locked memory of the host, where a GPU reads the rows that it needs; on the device where the host does not lock so much.
    Host,
}

/// Sizes of grouped-query attention over packed sequences. Rows are tokens; queries are `[rows, heads * head_dim]`, keys and values
/// `[rows, key_value_heads * head_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    pub heads: usize,
    /// Divides `heads`: query head h reads key/value head `h / (heads / key_value_heads)`.
    pub key_value_heads: usize,
    pub head_dim: usize,
    /// Last positions that a position sees, itself among them; at least 1. None: all positions before it.
    pub window: Option<usize>,
    /// Scores of a key `distance` positions before the query fall by [`AttentionShape::slope`] · distance.
    pub alibi: bool,
}

/// Sizes and form of rope over rows of heads.
#[derive(Clone, Copy, Debug)]
pub struct RopeShape {
    pub heads: usize,
    pub head_dim: usize,
    /// The first so many numbers of a head are rotated, an even number.
    pub rotated: usize,
    pub pairs: RopePairs,
}

impl AttentionShape {
    /// ALiBi's slope of a query head, 0 without ALiBi: of m heads, m a power of two, 2^(−8 (head + 1) / m). Of other numbers of heads, those beyond
    /// the power of two below take every second slope of twice as many (O. Press et al., 2021; BLOOM and Baichuan-13B alike).
    pub fn slope(self, head: usize) -> f64 {
        if !self.alibi {
            return 0.0;
        }
        let m = 1usize << self.heads.ilog2();
        let exponent = if head < m { 8 * (head + 1) } else { 4 * (2 * (head - m) + 1) };
        (-(exponent as f64) / m as f64).exp2()
    }

    /// Whether query heads share keys evenly and positions see at least themselves.
    fn is_whole(self) -> bool {
        self.key_value_heads > 0 && self.heads.is_multiple_of(self.key_value_heads) && self.window != Some(0)
    }

    /// `[rows, query numbers, key numbers]` of sequences between rising borders, the first of which is 0.
    ///
    /// Errors: `INTERNAL` where borders, heads or window do not fit.
    pub(crate) fn sizes(self, borders: &[u32]) -> Result<[usize; 3]> {
        let rising = borders.first() == Some(&0) && borders.is_sorted();
        match borders.last() {
            Some(rows) if rising && self.is_whole() => {
                let rows = *rows as usize;
                Ok([rows, rows * self.heads * self.head_dim, rows * self.key_value_heads * self.head_dim])
            }
            _ => Err(EngineError::internal(format!("attention over borders {borders:?} with {self:?}"))),
        }
    }

    /// `[query numbers, key numbers]` of [`Ops::cached_attention`].
    ///
    /// Errors: `INTERNAL` where there are no new rows, more of them than positions, or heads or a window that do not fit.
    pub(crate) fn cached_sizes(self, rows: usize, positions: usize) -> Result<[usize; 2]> {
        if rows == 0 || rows > positions || !self.is_whole() {
            let message = format!("attention of {rows} new rows over {positions} positions with {self:?}");
            return Err(EngineError::internal(message));
        }
        Ok([rows * self.heads * self.head_dim, positions * self.key_value_heads * self.head_dim])
    }
}

/// What attention reads, after rope.
pub struct AttentionInputs<'a, B> {
    pub query: View<'a, B>,
    pub key: View<'a, B>,
    pub value: View<'a, B>,
}

/// What attention's backward pass reads besides its inputs.
pub struct AttentionSaved<'a, B> {
    /// `[rows, heads * head_dim]`: the forward pass's result.
    pub output: View<'a, B>,
    /// `[rows, heads]`: ln Σ exp of the scaled scores.
    pub log_sum_exp: View<'a, B>,
    /// `[rows, heads * head_dim]`: gradient with respect to `output`.
    pub output_grad: View<'a, B>,
}

/// What attention's backward pass writes; shapes as the inputs.
pub struct AttentionGrads<'a, B> {
    pub query: ViewMut<'a, B>,
    pub key: ViewMut<'a, B>,
    pub value: ViewMut<'a, B>,
}

/// How rows of heads are rotated: the arguments of [`Ops::rope`].
pub struct Rope<'a, O: Ops + ?Sized> {
    pub shape: RopeShape,
    pub angles: &'a O::Buffer,
    pub positions: &'a O::Indices,
}

/// One summand of a gradient with respect to a shared input: `output_grad [rows, out] · weight [out, in]`.
pub struct LinearGradTerm<'a, O: Ops + ?Sized> {
    pub output_grad: View<'a, O::Buffer>,
    pub weight: &'a O::Weight,
}

/// Settings of one AdamW update.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
    /// Number of this update, from 1.
    pub step: u64,
}

/// Factors of one AdamW update, in f64: devices round each to the type they compute in, as torch does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdamWFactors {
    /// 1 − learning rate · weight decay
    pub decay: f64,
    /// β1
    pub keep_first: f64,
    /// 1 − β1
    pub first_weight: f64,
    pub keep_second: f64,
    /// 1 − β2
    pub second_weight: f64,
    /// learning rate / (1 − β1ᵗ)
    pub step_size: f64,
    /// √(1 − β2ᵗ)
    pub root_correction: f64,
    pub epsilon: f64,
}

impl AdamW {
    pub(crate) fn factors(self) -> AdamWFactors {
        let Self { learning_rate, beta1, beta2, epsilon, weight_decay, step } = self;
        let correction = |beta: f64| 1.0 - beta.powi(i32::try_from(step).unwrap_or(i32::MAX));
        AdamWFactors {
            decay: 1.0 - learning_rate * weight_decay,
            keep_first: beta1,
            first_weight: 1.0 - beta1,
            keep_second: beta2,
            second_weight: 1.0 - beta2,
            step_size: learning_rate / correction(beta1),
            root_correction: correction(beta2).sqrt(),
            epsilon,
        }
    }
}

/// The state of one AdamW update: flat buffers.
pub struct AdamWState<'a, B> {
    pub parameters: &'a mut B,
    pub gradients: &'a B,
    /// Which of their numbers are updated.
    pub range: Range<usize>,
    pub first_moments: &'a mut B,
    pub second_moments: &'a mut B,
    /// Where the moments of the range begin.
    pub moments_at: usize,
}

/// Numbers that share a scale in the moments of [`Ops::adamw_8bit`].
pub const MOMENT_BLOCK: usize = 256;

/// The state of one AdamW update of one matrix whose moments are held in 8 bits.
pub struct AdamW8bitState<'a, B, C> {
    pub parameters: &'a mut B,
    pub gradients: &'a B,
    /// Which of their numbers are updated.
    pub range: Range<usize>,
    pub first_codes: &'a mut C,
    pub second_codes: &'a mut C,
    /// Where the codes of the range begin.
    pub codes_at: usize,
    /// The largest magnitude of each block; the last block may be short.
    pub first_scales: &'a mut B,
    pub second_scales: &'a mut B,
    /// Where the scales of the range begin.
    pub scales_at: usize,
}

/// The operations of one device. Everything is row-major; views give the first element and the sizes follow from the arguments.
///
/// A device may work asynchronously: only [`Ops::read`] and functions that return a number wait. Errors are `OUT_OF_MEMORY` for
/// allocations and `INTERNAL` where sizes do not fit or a device fails.
pub trait Ops: Send + Sync + 'static {
    type Elem: Element;
    /// Numbers on the device; the host reads and writes them as [`Self::Elem`], however they are stored.
    type Buffer: Send + Sync;
    /// Unsigned integers on the device: token ids, positions, row numbers, sequence borders.
    type Indices: Send + Sync;
    /// A frozen matrix in its stored type.
    type Weight: Send + Sync;
    /// Activations outside the memory that the device computes in: beside a GPU, in locked memory of the host.
    type Parked: Send + Sync;
    /// 8-bit codes on the device.
    type Codes: Send + Sync;
    /// Logits of the output layer that are held at once: enough rows of a vocabulary for products at full speed.
    const LOGITS_AT_ONCE: usize;

    /// A buffer of `len` zeros in full precision: what is trained, its gradients and moments, and sums over rows.
    fn allocate(&self, len: usize) -> Result<Self::Buffer>;
    /// A buffer of `len` zeros in the type that activations and their gradients have on this device, which may be a shorter one.
    fn allocate_activations(&self, len: usize) -> Result<Self::Buffer>;
    /// Room for up to `capacity` integers; empty.
    fn allocate_indices(&self, capacity: usize) -> Result<Self::Indices>;
    /// `len` codes, all zero.
    fn allocate_codes(&self, len: usize) -> Result<Self::Codes>;
    /// Copies the first codes to the host; waits for everything before it.
    fn read_codes(&self, from: &Self::Codes, codes: &mut [u8]) -> Result<()>;
    /// Copies the first codes from the host.
    fn write_codes(&self, codes: &[u8], to: &mut Self::Codes) -> Result<()>;
    /// Takes a matrix `[rows, columns]` in its stored type.
    fn upload_weight(&self, tensor: HostTensor) -> Result<Self::Weight>;
    /// As [`Ops::upload_weight`], a table that only [`Ops::embedding`] reads; `place` is for devices with memory of their own.
    fn upload_embedding(&self, tensor: HostTensor, place: EmbeddingPlace) -> Result<Self::Weight>;
    /// Where [`Ops::upload_embedding`] has put a table.
    fn embedding_place(&self, table: &Self::Weight) -> EmbeddingPlace;
    /// `(rows, columns)` of a weight.
    fn weight_shape(&self, weight: &Self::Weight) -> (usize, usize);
    /// Bytes that hold a weight, its scales included, in memory of their own or not.
    fn weight_bytes(&self, weight: &Self::Weight) -> u64;
    /// A tensor's elements as plain numbers (norm weights, biases).
    fn upload_dequantized(&self, tensor: &HostTensor) -> Result<Self::Buffer>;
    /// Copies from the host.
    fn write(&self, values: &[Self::Elem], to: ViewMut<'_, Self::Buffer>) -> Result<()>;
    /// Replaces the contents.
    fn write_indices(&self, values: &[u32], to: &mut Self::Indices) -> Result<()>;
    /// Copies to the host; waits for everything before it.
    fn read(&self, from: View<'_, Self::Buffer>, values: &mut [Self::Elem]) -> Result<()>;
    /// Room for `len` activations outside the device's own memory. `OUT_OF_MEMORY` where there is none.
    fn allocate_parked(&self, len: usize) -> Result<Self::Parked>;
    /// `to` = the first `len` numbers of `from`, which are activations. As every operation, it takes its place in the order of the calls; a device
    /// may do it beside those that follow, up to the first that writes to `from`.
    fn park(&self, len: usize, from: &Self::Buffer, to: &mut Self::Parked) -> Result<()>;
    /// The first `len` numbers of `to` = those that were parked. As [`Ops::park`], beside what follows up to the first operation that uses `to`.
    fn fetch(&self, len: usize, from: &Self::Parked, to: &mut Self::Buffer) -> Result<()>;
    /// Bytes allocated now and at most.
    fn memory(&self) -> MemoryUse;
    /// What memory costs here.
    fn prices(&self) -> Box<dyn MemoryPrices + '_>;
    /// What can still be had.
    fn room(&self) -> MemoryRoom;
    /// What the last digits of results depend on beside their operands, such as the instruction set: names and values, for people.
    fn environment(&self) -> BTreeMap<String, String>;

    /// Sets `len` elements to zero.
    fn zero(&self, to: ViewMut<'_, Self::Buffer>, len: usize) -> Result<()>;
    /// `out [ids, columns]` = rows of `table`, dequantized. Ids must be below its row count.
    fn embedding(&self, table: &Self::Weight, ids: &Self::Indices, out: ViewMut<'_, Self::Buffer>) -> Result<()>;
    /// Adds noise to the first `len` numbers.
    fn add_noise(&self, len: usize, noise: UniformNoise, to: ViewMut<'_, Self::Buffer>) -> Result<()>;
    /// `out [rows, width]` = the rows of `x` with the numbers in `rows`.
    fn gather_rows(
        &self,
        x: View<'_, Self::Buffer>,
        rows: &Self::Indices,
        width: usize,
        out: ViewMut<'_, Self::Buffer>,
    ) -> Result<()>;
    /// Row `rows[i]` of `out` = row i of `x [rows, width]`. Row numbers must differ.
    fn scatter_rows(
        &self,
        x: View<'_, Self::Buffer>,
        rows: &Self::Indices,
        width: usize,
        out: ViewMut<'_, Self::Buffer>,
    ) -> Result<()>;

    /// `out = x · reciprocal_rms · weight`, `reciprocal_rms [rows] = 1 / √(mean(x²) + epsilon)`; x is `[rows, width]`.
    #[expect(clippy::too_many_arguments, reason = "sizes, two inputs and two results")]
    fn rms_norm(
        &self,
        rows: usize,
        width: usize,
        x: View<'_, Self::Buffer>,
        weight: &Self::Buffer,
        epsilon: f64,
        out: ViewMut<'_, Self::Buffer>,
        reciprocal_rms: ViewMut<'_, Self::Buffer>,
    ) -> Result<()>;
    /// Adds to `input_grad`: r·(w∘g) − x·r³/width·Σ(w∘g∘x), with r the row's reciprocal RMS and g its output gradient. `normed` = what
    /// [`Ops::rms_norm`] gave, once more, where it is asked for.
    #[expect(clippy::too_many_arguments, reason = "sizes, four inputs and two results")]
    fn rms_norm_backward(
        &self,
        rows: usize,
        width: usize,
        x: View<'_, Self::Buffer>,
        weight: &Self::Buffer,
        reciprocal_rms: View<'_, Self::Buffer>,
        output_grad: View<'_, Self::Buffer>,
        input_grad: ViewMut<'_, Self::Buffer>,
        normed: Option<ViewMut<'_, Self::Buffer>>,
    ) -> Result<()>;
    /// Rotates each head's pairs in place: `(a, b) → (a cos − b sin, b cos + a sin)`; the inverse turns back, which is also the gradient.
    /// `x [positions, heads * head_dim]`; `angles [.., rotated]`: at each position the cosines, then the sines, of `rotated / 2` pairs.
    fn rope(
        &self,
        x: ViewMut<'_, Self::Buffer>,
        shape: RopeShape,
        angles: &Self::Buffer,
        positions: &Self::Indices,
        inverse: bool,
    ) -> Result<()>;
    /// `out = silu(gate) · up`, element by element.
    fn swiglu(
        &self,
        len: usize,
        gate: View<'_, Self::Buffer>,
        up: View<'_, Self::Buffer>,
        out: ViewMut<'_, Self::Buffer>,
    ) -> Result<()>;
    /// Replaces `gate` and `up` by the gradients with respect to them; `activated` = what [`Ops::swiglu`] gave, once more.
    fn swiglu_backward(
        &self,
        len: usize,
        output_grad: View<'_, Self::Buffer>,
        gate: ViewMut<'_, Self::Buffer>,
        up: ViewMut<'_, Self::Buffer>,
        activated: ViewMut<'_, Self::Buffer>,
    ) -> Result<()>;
    /// Causal attention inside each sequence `[borders[i], borders[i + 1])`, of the shape's window where it has one; scores scaled by
    /// 1/√head_dim; also ln Σ exp of each row and head.
    fn attention(
        &self,
        shape: AttentionShape,
        borders: &Self::Indices,
        inputs: AttentionInputs<'_, Self::Buffer>,
        output: ViewMut<'_, Self::Buffer>,
        log_sum_exp: ViewMut<'_, Self::Buffer>,
    ) -> Result<()>;
    /// Attention of one sequence's last `rows` positions over all its `positions`, whose keys and values are kept: row i is position
    /// `positions − rows + i` and sees those before it, of the shape's window where it has one. Queries and output have `rows` rows, keys and values `positions`; scores are scaled by 1/√head_dim.
    fn cached_attention(
        &self,
        shape: AttentionShape,
        rows: usize,
        positions: usize,
        inputs: AttentionInputs<'_, Self::Buffer>,
        output: ViewMut<'_, Self::Buffer>,
    ) -> Result<()>;
    /// Gradients of [`Ops::attention`].
    fn attention_backward(
        &self,
        shape: AttentionShape,
        borders: &Self::Indices,
        inputs: AttentionInputs<'_, Self::Buffer>,
        saved: AttentionSaved<'_, Self::Buffer>,
        grads: AttentionGrads<'_, Self::Buffer>,
    ) -> Result<()>;

    /// `out = x ∘ mask / (1 − p)` for `len` numbers, added to what `out` holds where `accumulate`. Dropped numbers are 0 whatever they were.
    fn dropout(
        &self,
        len: usize,
        mask: DropoutMask,
        x: View<'_, Self::Buffer>,
        accumulate: bool,
        out: ViewMut<'_, Self::Buffer>,
    ) -> Result<()>;

    /// `c [m, n] = alpha · a [m, k] · b [k, n]`, added to what `c` holds where `accumulate`.
    #[expect(clippy::too_many_arguments, reason = "the arguments of a matrix product")]
    fn gemm(
        &self,
        m: usize,
        n: usize,
        k: usize,
        alpha: f64,
        a: Matrix<'_, Self::Buffer>,
        b: Matrix<'_, Self::Buffer>,
        accumulate: bool,
        c: MatrixMut<'_, Self::Buffer>,
    ) -> Result<()>;
    /// `out [rows, out] = x [rows, in] · weightᵀ + low-rank term + bias + residual`; exact products of the dequantized weight.
    #[expect(clippy::too_many_arguments, reason = "everything that is added in one pass")]
    fn linear_forward(
        &self,
        rows: usize,
        x: View<'_, Self::Buffer>,
        weight: &Self::Weight,
        bias: Option<&Self::Buffer>,
        low_rank: Option<LowRankTerm<'_, Self::Buffer>>,
        residual: Option<View<'_, Self::Buffer>>,
        out: ViewMut<'_, Self::Buffer>,
    ) -> Result<()>;
    /// [`Ops::linear_forward`] without residual, then [`Ops::rope`]: queries or keys. A device may do both in one pass.
    #[expect(clippy::too_many_arguments, reason = "everything that is added in one pass")]
    fn linear_rope(
        &self,
        rows: usize,
        x: View<'_, Self::Buffer>,
        weight: &Self::Weight,
        bias: Option<&Self::Buffer>,
        low_rank: Option<LowRankTerm<'_, Self::Buffer>>,
        rope: Rope<'_, Self>,
        out: ViewMut<'_, Self::Buffer>,
    ) -> Result<()> {
        let ViewMut { buffer, offset } = out;
        self.linear_forward(rows, x, weight, bias, low_rank, None, ViewMut::at(&mut *buffer, offset))?;
        let Rope { shape, angles, positions } = rope;
        self.rope(ViewMut::at(buffer, offset), shape, angles, positions, false)
    }
    /// `input_grad [rows, in] = Σ output_grad · weight + low-rank term` over the layers that share the input.
    fn linear_grad_input(
        &self,
        rows: usize,
        terms: &[LinearGradTerm<'_, Self>],
        low_rank: Option<LowRankTerm<'_, Self::Buffer>>,
        input_grad: ViewMut<'_, Self::Buffer>,
    ) -> Result<()>;

    /// [`Ops::linear_forward`] of an up-projection, then [`Ops::swiglu`]. A device may do both in one pass.
    fn gated_forward(&self, of: GatedForward<'_, Self>) -> Result<()> {
        of.in_parts(self)
    }
    /// [`Ops::linear_grad_input`] of a down-projection, then [`Ops::swiglu_backward`]. A device may do both in one pass.
    fn gated_backward(&self, of: GatedBackward<'_, Self>) -> Result<()> {
        of.in_parts(self)
    }

    /// The low-rank halves' products with the gradients g of outputs: `hidden_grad = scale · g · B`, and gᵀ · `hidden` added to the gradient
    /// of B. A device may take both in one pass over g.
    fn low_rank_gradients(&self, of: LowRankGradients<'_, Self::Buffer>) -> Result<()> {
        of.into_products(self)
    }

    /// For each row of `logits [targets, vocabulary]`: its loss into `losses`: −Σ goal · ln softmax, where the goal is 1 − `label_smoothing` at the
    /// target, and `label_smoothing / vocabulary` more everywhere. With `grad_scale`, the logits are replaced by the gradient
    /// `(softmax − goal) · grad_scale`.
    fn cross_entropy(
        &self,
        vocabulary: usize,
        targets: &Self::Indices,
        label_smoothing: f64,
        grad_scale: Option<f64>,
        logits: ViewMut<'_, Self::Buffer>,
        losses: ViewMut<'_, Self::Buffer>,
    ) -> Result<()>;
    /// Multiplies a buffer by `scale`; where `max_norm` > 0, then by `min(1, max_norm / (norm + 1e-6))` as torch's `clip_grad_norm_`, with the
    /// 2-norm of the scaled buffer, which is returned.
    fn clip_norm(&self, values: &mut Self::Buffer, scale: f64, max_norm: f64) -> Result<f64>;
    /// torch's AdamW: p −= p·lr·wd, then p −= lr/(1−β1ᵗ) · m / (√v/√(1−β2ᵗ) + ε).
    fn adamw(&self, settings: AdamW, state: AdamWState<'_, Self::Buffer>) -> Result<()>;
    /// AdamW with moments in 8 bits, as bitsandbytes' (Dettmers et al., "8-bit Optimizers via Block-wise Quantization", ICLR 2022): codes of
    /// [`DYNAMIC_MAP`](crate::quant::DYNAMIC_MAP) and [`UNSIGNED_DYNAMIC_MAP`](crate::quant::UNSIGNED_DYNAMIC_MAP), times the scale of their
    /// block. The update uses the new moments before they are rounded to the nearest codes.
    fn adamw_8bit(&self, settings: AdamW, state: AdamW8bitState<'_, Self::Buffer, Self::Codes>) -> Result<()>;
}
