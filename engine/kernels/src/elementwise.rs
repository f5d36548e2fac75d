//! Launchers of what works on rows and runs of numbers.

use crate::error::Result;
use crate::stream::{DevicePointer, Launch, NumberType, Stream, launch};

/// Threads of a block that takes one row.
const ROW_THREADS: u32 = 256;
/// As above, for rows of a vocabulary.
const VOCABULARY_THREADS: u32 = 512;

impl Stream {
    /// `out = x · r · weight`, `reciprocal_rms [rows]` f32 = r = 1 / √(mean(x²) + epsilon); x and out `[rows, width]`, weight f32.
    ///
    /// # Safety
    /// Pointers hold numbers of these types and sizes; here and below.
    #[expect(clippy::too_many_arguments, reason = "a kernel's arguments, here and below")]
    pub unsafe fn rms_norm(
        &self,
        kind: NumberType,
        rows: usize,
        width: usize,
        x: DevicePointer,
        weight: DevicePointer,
        epsilon: f32,
        out: DevicePointer,
        reciprocal_rms: DevicePointer,
    ) -> Result<()> {
        const WARP: usize = 32;
        // Packs of 8 numbers that a thread keeps, of the kernels that keep rows in registers.
        let packs = [4, 16, 32].into_iter().find(|packs| width <= packs * 8 * WARP);
        let in_runs = width.is_multiple_of(8) && weight.is_multiple_of(16);
        // SAFETY: the caller's promise; the kernel's parameters in order, here and below.
        unsafe {
            match packs {
                Some(packs) if kind != NumberType::F32 && in_runs => {
                    let threads = 4 * WARP;
                    let launch = Launch::blocks(rows.div_ceil(threads / WARP), threads as u32);
                    let name = format!("rms_norm_{packs}_{}", kind.name());
                    launch!(self, &name, launch, x, weight, epsilon, rows as i32, width as i32, out, reciprocal_rms)
                }
                _ => {
                    let (name, launch) = (format!("rms_norm_{}", kind.name()), Launch::blocks(rows, ROW_THREADS));
                    launch!(self, &name, launch, x, weight, epsilon, width as i32, out, reciprocal_rms)
                }
            }
        }
    }

    /// `input_grad += r·(w∘g) − x·r³/width·Σ(w∘g∘x)`; `normed = x·r·w` where it has a place.
    ///
    /// # Safety
    /// As [`Self::rms_norm`].
    #[expect(clippy::too_many_arguments, reason = "as above")]
    pub unsafe fn rms_norm_backward(
        &self,
        kind: NumberType,
        rows: usize,
        width: usize,
        x: DevicePointer,
        weight: DevicePointer,
        reciprocal_rms: DevicePointer,
        output_grad: DevicePointer,
        input_grad: DevicePointer,
        normed: Option<DevicePointer>,
    ) -> Result<()> {
        let (name, normed) = (format!("rms_norm_backward_{}", kind.name()), normed.unwrap_or(0));
        let launch = Launch::blocks(rows, ROW_THREADS);
        // SAFETY: as above.
        unsafe {
            launch!(self, &name, launch, x, weight, reciprocal_rms, output_grad, width as i32, input_grad, normed)
        }
    }

    /// Rotates the first `rotated` numbers of each head of `x [rows, heads * head_dim]` in place, by halves or `interleaved`; `angles` f32: cosines,
    /// then sines of each position.
    ///
    /// # Safety
    /// As [`Self::rms_norm`].
    #[expect(clippy::too_many_arguments, reason = "as above")]
    pub unsafe fn rope(
        &self,
        kind: NumberType,
        rows: usize,
        [heads, head_dim, rotated]: [usize; 3],
        interleaved: bool,
        x: DevicePointer,
        angles: DevicePointer,
        positions: DevicePointer,
        inverse: bool,
    ) -> Result<()> {
        let name = format!("rope{}_{}", if interleaved { "_interleaved" } else { "" }, kind.name());
        let [heads, head_dim, half] = [heads, head_dim, rotated / 2].map(|size| size as i32);
        let sign = if inverse { -1.0f32 } else { 1.0 };
        let launch = Launch::blocks(rows, ROW_THREADS);
        // SAFETY: as above.
        unsafe { launch!(self, &name, launch, x, angles, positions, heads, head_dim, half, sign) }
    }

    /// `out = silu(gate) · up`
    ///
    /// # Safety
    /// As [`Self::rms_norm`].
    pub unsafe fn swiglu(
        &self,
        kind: NumberType,
        len: usize,
        gate: DevicePointer,
        up: DevicePointer,
        out: DevicePointer,
    ) -> Result<()> {
        let name = format!("swiglu_{}", kind.name());
        // SAFETY: as above.
        unsafe { launch!(self, &name, Launch::numbers(len, 16 / kind.bytes()), len, gate, up, out) }
    }

    /// Replaces gate and up by their gradients; `activated = silu(gate) · up`.
    ///
    /// # Safety
    /// As [`Self::rms_norm`].
    pub unsafe fn swiglu_backward(
        &self,
        kind: NumberType,
        len: usize,
        output_grad: DevicePointer,
        gate: DevicePointer,
        up: DevicePointer,
        activated: DevicePointer,
    ) -> Result<()> {
        let name = format!("swiglu_backward_{}", kind.name());
        // SAFETY: as above.
        unsafe { launch!(self, &name, Launch::numbers(len, 16 / kind.bytes()), len, output_grad, gate, up, activated) }
    }

    /// `to [rows, width]` = rows of `from` with the numbers in `numbers`.
    ///
    /// # Safety
    /// As [`Self::rms_norm`].
    pub unsafe fn gather_rows(
        &self,
        [from_kind, to_kind]: [NumberType; 2],
        [rows, width]: [usize; 2],
        from: DevicePointer,
        numbers: DevicePointer,
        to: DevicePointer,
    ) -> Result<()> {
        let name = format!("gather_rows_{}_{}", from_kind.name(), to_kind.name());
        // SAFETY: as above.
        unsafe { launch!(self, &name, Launch::blocks(rows, ROW_THREADS), from, numbers, width as i32, to) }
    }

    /// Row `numbers[i]` of `to` = row i of `from [rows, width]`.
    ///
    /// # Safety
    /// As [`Self::rms_norm`]; row numbers differ.
    pub unsafe fn scatter_rows(
        &self,
        kind: NumberType,
        [rows, width]: [usize; 2],
        from: DevicePointer,
        numbers: DevicePointer,
        to: DevicePointer,
    ) -> Result<()> {
        let name = format!("scatter_rows_{}", kind.name());
        // SAFETY: as above.
        unsafe { launch!(self, &name, Launch::blocks(rows, ROW_THREADS), from, numbers, width as i32, to) }
    }

    /// The same numbers in another type.
    ///
    /// # Safety
    /// As [`Self::rms_norm`].
    pub unsafe fn convert(
        &self,
        [from_kind, to_kind]: [NumberType; 2],
        len: usize,
        from: DevicePointer,
        to: DevicePointer,
    ) -> Result<()> {
        let name = format!("convert_{}_{}", from_kind.name(), to_kind.name());
        // SAFETY: as above.
        unsafe { launch!(self, &name, Launch::numbers(len, 4), len, from, to) }
    }

    /// Adds `bias [width]` f32 to each row of `x`.
    ///
    /// # Safety
    /// As [`Self::rms_norm`].
    pub unsafe fn add_bias(
        &self,
        kind: NumberType,
        [rows, width]: [usize; 2],
        x: DevicePointer,
        bias: DevicePointer,
    ) -> Result<()> {
        let (name, len) = (format!("add_bias_{}", kind.name()), rows * width);
        // SAFETY: as above.
        unsafe { launch!(self, &name, Launch::numbers(len, 4), x, bias, width as i32, len) }
    }

    /// Losses `[rows]` f32 of `logits [rows, vocabulary]`; with `grad_scale`, `(softmax − goal) · grad_scale` in place of them. The goal is
    /// 1 − `label_smoothing` at the target, and `label_smoothing / vocabulary` more everywhere.
    ///
    /// # Safety
    /// As [`Self::rms_norm`]; targets are below the vocabulary.
    #[expect(clippy::too_many_arguments, reason = "as above")]
    pub unsafe fn cross_entropy(
        &self,
        kind: NumberType,
        rows: usize,
        vocabulary: usize,
        logits: DevicePointer,
        targets: DevicePointer,
        label_smoothing: f32,
        grad_scale: Option<f32>,
        losses: DevicePointer,
    ) -> Result<()> {
        let name = format!("cross_entropy_{}", kind.name());
        let launch = Launch::blocks(rows, VOCABULARY_THREADS);
        let (with_grad, scale) = (i32::from(grad_scale.is_some()), grad_scale.unwrap_or(0.0));
        // SAFETY: as above.
        unsafe {
            launch!(self, &name, launch, logits, targets, vocabulary as i32, label_smoothing, scale, with_grad, losses)
        }
    }
}
