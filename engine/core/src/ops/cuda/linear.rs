//! Linear layers: the frozen product, what is added to it, and the gradient of its input.

use luthier_kernels::{
    DevicePointer, LinearFinish, LinearGate, LinearProduct, LinearRope, LinearSegment, NumberType, Operand, Product,
};

use super::device::CudaOps;
use super::memory::{CudaBuffer, CudaIndices, place, place_mut, single};
use super::weight::CudaWeight;
use crate::error::{EngineError, Result};
use crate::ops::view::extent;
use crate::ops::{
    GatedBackward, GatedForward, LinearGradTerm, LowRankTerm, Matrix, MatrixMut, Ops, Rope, RopePairs, RopeShape, View,
    ViewMut,
};

/// What a product starts from.
pub(super) enum Start {
    Zero,
    /// What the result holds.
    Itself,
    /// Numbers with the result's strides.
    Other(DevicePointer),
}

/// What a linear layer's output, or the gradient of its input, is made of.
#[derive(Clone, Copy)]
struct Sum<'a> {
    segments: &'a [LinearSegment],
    low_rank: Option<&'a LowRankTerm<'a, CudaBuffer>>,
    /// Laid out as the result; may be the result itself.
    start: Option<DevicePointer>,
}

impl CudaOps {
    /// A weight's numbers in the type that products are computed in: its own, or converted into scratch.
    fn plain_weight(&self, weight: &CudaWeight, kind: NumberType) -> Result<DevicePointer> {
        if let Some(pointer) = weight.held_as(kind) {
            return Ok(pointer);
        }
        let to = self.scratch(weight.rows * weight.columns * kind.bytes())?;
        weight.convert(self.device_memory(), kind, to)?;
        Ok(to)
    }

    /// A matrix in the type of a product: as it is, or the copy in that type that goes with an adapter's numbers.
    pub(super) fn operand(
        &self,
        matrix: &Matrix<'_, CudaBuffer>,
        [rows, columns]: [usize; 2],
        kind: NumberType,
    ) -> Result<Operand> {
        let Matrix { view, row_stride, column_stride } = *matrix;
        let len = extent(rows, columns, row_stride, column_stride);
        let pointer = view.buffer.converted(kind, view.offset, len)?;
        Ok(Operand { pointer, row_stride, column_stride })
    }

    pub(super) fn product(
        &self,
        [m, n, k]: [usize; 3],
        alpha: f64,
        a: &Matrix<'_, CudaBuffer>,
        b: &Matrix<'_, CudaBuffer>,
        start: Start,
        c: MatrixMut<'_, CudaBuffer>,
    ) -> Result<()> {
        // Of two types the shorter one: activations meet adapters, which are kept in f32.
        let kind = match (a.view.buffer.kind, b.view.buffer.kind) {
            (NumberType::F32, other) | (other, _) => other,
        };
        let left = self.operand(a, [m, k], kind)?;
        let right = self.operand(b, [k, n], kind)?;
        let MatrixMut { view, row_stride, column_stride } = c;
        let pointer = place_mut(&view, extent(m, n, row_stride, column_stride))?;
        let product = Product {
            m,
            n,
            k,
            alpha: alpha as f32,
            inputs: kind,
            a: left,
            b: right,
            output: view.buffer.kind,
            c: Operand { pointer, row_stride, column_stride },
            start: match start {
                Start::Zero => None,
                Start::Itself => Some(pointer),
                Start::Other(place) => Some(place),
            },
        };
        // SAFETY: operands were checked whole; `c` is borrowed alone.
        unsafe { self.multiplier().multiply(&product) }.map_err(EngineError::from)
    }

    #[expect(clippy::too_many_arguments, reason = "everything that is added to a product")]
    pub(super) fn forward(
        &self,
        rows: usize,
        x: View<'_, CudaBuffer>,
        weight: &CudaWeight,
        bias: Option<&CudaBuffer>,
        low_rank: Option<LowRankTerm<'_, CudaBuffer>>,
        residual: Option<View<'_, CudaBuffer>>,
        out: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        let (n, kind) = (weight.rows, x.buffer.kind);
        let whole = self.frozen_segment(rows, x, weight)?;
        let start = residual.map(|residual| self.same_kind(residual, out.buffer.kind, rows * n)).transpose()?;
        self.add_with_bias([rows, n], kind, Sum { segments: &[whole], low_rank: low_rank.as_ref(), start }, bias, out)
    }

    /// A linear layer and rope: both in one kernel where there is one; otherwise one after the other.
    #[expect(clippy::too_many_arguments, reason = "everything that is added to a product")]
    pub(super) fn forward_rotated(
        &self,
        rows: usize,
        x: View<'_, CudaBuffer>,
        weight: &CudaWeight,
        bias: Option<&CudaBuffer>,
        low_rank: Option<LowRankTerm<'_, CudaBuffer>>,
        rope: Rope<'_, Self>,
        out: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        let Rope { shape, angles, positions } = rope;
        let RopeShape { heads, head_dim, rotated, pairs } = shape;
        let (n, kind) = (weight.rows, x.buffer.kind);
        if positions.values.len() != rows || heads * head_dim != n {
            let positions = positions.values.len();
            return Err(EngineError::internal(format!(
                "rope of {rows} rows of {n} with {positions} positions and {heads} heads"
            )));
        }
        let table = self.angles(angles, rotated, positions)?;
        let whole = self.frozen_segment(rows, x, weight)?;
        let sum = Sum { segments: &[whole], low_rank: low_rank.as_ref(), start: None };
        let ViewMut { buffer, offset } = out;
        let rope = LinearFinish::Rope(LinearRope { head_dim, angles: table, positions: positions.pointer() });
        // A bias is added before rope.
        let at_once = bias.is_none() && pairs == RopePairs::Halves && rotated == head_dim;
        if at_once && self.add_at_once([rows, n], kind, sum, rope, ViewMut::at(&mut *buffer, offset))? {
            return Ok(());
        }
        self.add_with_bias([rows, n], kind, sum, bias, ViewMut::at(&mut *buffer, offset))?;
        self.rope(ViewMut::at(buffer, offset), shape, angles, positions, false)
    }

    /// An up-projection and the gated activation: both in one kernel where there is one; otherwise one after the other.
    pub(super) fn forward_gated(&self, of: GatedForward<'_, Self>) -> Result<()> {
        let GatedForward { rows, x, weight, bias, low_rank, gate, mut up, activated } = of;
        let (n, kind) = (weight.rows, x.buffer.kind);
        let finish = LinearFinish::Gated(LinearGate {
            gate: self.same_kind(gate, kind, rows * n)?,
            activated: self.same_kind(View::at(&*activated.buffer, activated.offset), kind, rows * n)?,
        });
        let whole = self.frozen_segment(rows, x, weight)?;
        let sum = Sum { segments: &[whole], low_rank: low_rank.as_ref(), start: None };
        // A bias is added before the activation.
        if bias.is_none() && self.add_at_once([rows, n], kind, sum, finish, up.reborrow())? {
            return Ok(());
        }
        self.add_with_bias([rows, n], kind, sum, bias, up.reborrow())?;
        self.swiglu(rows * n, gate, View::at(up.buffer, up.offset), activated)
    }

    /// The gradient of a down-projection's input and of the gated activation: both in one kernel where there is one; otherwise one after the other.
    pub(super) fn backward_gated(&self, of: GatedBackward<'_, Self>) -> Result<()> {
        let GatedBackward { rows, term, low_rank, gate, mut up, activated, activated_grad: mut grad } = of;
        let (n, kind) = (term.weight.columns, term.output_grad.buffer.kind);
        let finish = LinearFinish::GatedBackward(LinearGate {
            gate: self.same_kind(View::at(&*gate.buffer, gate.offset), kind, rows * n)?,
            activated: self.same_kind(View::at(&*activated.buffer, activated.offset), kind, rows * n)?,
        });
        let whole = self.gradient_segment(rows, &term)?;
        let sum = Sum { segments: &[whole], low_rank: low_rank.as_ref(), start: None };
        if self.add_at_once([rows, n], kind, sum, finish, up.reborrow())? {
            return Ok(());
        }
        self.add([rows, n], kind, sum, grad.reborrow())?;
        self.swiglu_backward(rows * n, View::at(grad.buffer, grad.offset), gate, up, activated)
    }

    /// `x · weightᵀ`
    fn frozen_segment(&self, rows: usize, x: View<'_, CudaBuffer>, weight: &CudaWeight) -> Result<LinearSegment> {
        let k = weight.columns;
        let a = Operand { pointer: place(x, rows * k)?, row_stride: k, column_stride: 1 };
        let b = Operand { pointer: self.plain_weight(weight, x.buffer.kind)?, row_stride: 1, column_stride: k };
        Ok(LinearSegment { depth: k, a, b })
    }

    /// `output_grad · weight`
    fn gradient_segment(&self, rows: usize, term: &LinearGradTerm<'_, Self>) -> Result<LinearSegment> {
        let LinearGradTerm { output_grad, weight } = *term;
        let (n, k) = (weight.columns, weight.rows);
        let a = Operand { pointer: place(output_grad, rows * k)?, row_stride: k, column_stride: 1 };
        let b =
            Operand { pointer: self.plain_weight(weight, output_grad.buffer.kind)?, row_stride: n, column_stride: 1 };
        Ok(LinearSegment { depth: k, a, b })
    }

    /// Cosines and sines of rope, of every position asked for.
    pub(super) fn angles(&self, angles: &CudaBuffer, rotated: usize, positions: &CudaIndices) -> Result<DevicePointer> {
        single(angles)?;
        let last = positions.values.iter().max().map_or(0, |last| *last as usize + 1);
        angles.place(0, last * rotated)
    }

    pub(super) fn grad_input(
        &self,
        rows: usize,
        layers: &[LinearGradTerm<'_, Self>],
        low_rank: Option<LowRankTerm<'_, CudaBuffer>>,
        input_grad: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        let n = layers.first().map(|layer| layer.weight.columns);
        let n = n.ok_or_else(|| EngineError::internal("a gradient of no layer was asked for"))?;
        let to = place_mut(&input_grad, rows * n)?;
        let kind = layers[0].output_grad.buffer.kind;
        let mut segments = Vec::with_capacity(layers.len());
        let mut low_rank = low_rank.as_ref();
        let mut start = None;
        for (i, term) in layers.iter().enumerate() {
            let LinearGradTerm { output_grad, weight } = term;
            if weight.columns != n || output_grad.buffer.kind != kind {
                let found = weight.columns;
                return Err(EngineError::internal(format!("layers with {n} and {found} inputs share one")));
            }
            segments.push(self.gradient_segment(rows, term)?);
            // Converted weights share one scratch: each is used before the next is made.
            let waits =
                i + 1 < layers.len() && weight.held_as(kind).is_some() && layers[i + 1].weight.held_as(kind).is_some();
            if !waits {
                let sum = Sum { segments: &segments, low_rank: low_rank.take(), start };
                self.add([rows, n], kind, sum, ViewMut::at(&mut *input_grad.buffer, input_grad.offset))?;
                segments.clear();
                start = Some(to);
            }
        }
        Ok(())
    }

    fn add_with_bias(
        &self,
        [rows, n]: [usize; 2],
        kind: NumberType,
        sum: Sum<'_>,
        bias: Option<&CudaBuffer>,
        out: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        let (to, output) = (place_mut(&out, rows * n)?, out.buffer.kind);
        self.add([rows, n], kind, sum, out)?;
        let Some(bias) = bias else { return Ok(()) };
        // SAFETY: both were checked whole; the result is borrowed alone.
        unsafe { self.stream().add_bias(output, [rows, n], to, bias.place(0, n)?) }.map_err(EngineError::from)
    }

    /// `out [rows, n]` = the sum: in one kernel where the card and the sizes allow it, otherwise one product after the other.
    fn add(&self, [rows, n]: [usize; 2], kind: NumberType, sum: Sum<'_>, out: ViewMut<'_, CudaBuffer>) -> Result<()> {
        let ViewMut { buffer, offset } = out;
        if self.add_at_once([rows, n], kind, sum, LinearFinish::Plain, ViewMut::at(&mut *buffer, offset))? {
            return Ok(());
        }
        let Sum { segments, low_rank, mut start } = sum;
        let (to, output) = (buffer.place_mut(offset, rows * n)?, buffer.kind);
        if let Some(term) = low_rank {
            // First: it is written without being read, and the large product adds to it at no cost of its own.
            self.expand([rows, n], term, start, ViewMut::at(buffer, offset))?;
            start = Some(to);
        }
        for LinearSegment { depth, a, b } in segments.iter().copied() {
            let c = Operand { pointer: to, row_stride: n, column_stride: 1 };
            let product = Product { m: rows, n, k: depth, alpha: 1.0, inputs: kind, a, b, output, c, start };
            // SAFETY: operands were checked whole; the result is borrowed alone.
            unsafe { self.multiplier().multiply(&product)? };
            start = Some(to);
        }
        Ok(())
    }

    /// Whether one kernel does the whole sum and what becomes of it; then it does.
    fn add_at_once(
        &self,
        [rows, n]: [usize; 2],
        kind: NumberType,
        sum: Sum<'_>,
        finish: LinearFinish,
        out: ViewMut<'_, CudaBuffer>,
    ) -> Result<bool> {
        if out.buffer.kind != kind {
            return Ok(false);
        }
        let mut segments = sum.segments.to_vec();
        if let Some(LowRankTerm { rank, left, right }) = sum.low_rank {
            let (a, b) = (self.operand(left, [rows, *rank], kind)?, self.operand(right, [*rank, n], kind)?);
            segments.push(LinearSegment { depth: *rank, a, b });
        }
        let (start, out) = (sum.start, place_mut(&out, rows * n)?);
        let product = LinearProduct { rows, columns: n, segments: &segments, start, finish, out };
        if !self.stream().takes_linear(kind, &product) {
            return Ok(false);
        }
        // SAFETY: operands were checked whole; the result is borrowed alone.
        unsafe { self.stream().linear(kind, &product)? };
        Ok(true)
    }

    fn same_kind(&self, view: View<'_, CudaBuffer>, kind: NumberType, len: usize) -> Result<DevicePointer> {
        if view.buffer.kind == kind {
            return place(view, len);
        }
        Err(EngineError::internal(format!("{:?} meets {kind:?} in a linear layer", view.buffer.kind)))
    }
}
