//! Linear layers: the frozen product, what is added to it, and the gradient of its input.

use luthier_kernels::{DevicePointer, NumberType, Operand, Product};

use super::device::CudaOps;
use super::memory::{CudaBuffer, extent, place, place_matrix, place_mut};
use super::weight::CudaWeight;
use crate::error::{EngineError, Result};
use crate::ops::{LinearGradTerm, LowRankTerm, Matrix, MatrixMut, View, ViewMut};

impl CudaOps {
    /// A weight's numbers in the type that products are computed in: its own, or converted into scratch.
    fn plain_weight(&self, weight: &CudaWeight, kind: NumberType) -> Result<DevicePointer> {
        if weight.kind == kind {
            return Ok(weight.allocation.pointer);
        }
        let len = weight.rows * weight.columns;
        let to = self.scratch(0, len * kind.bytes())?;
        // SAFETY: the weight's numbers; scratch of their size.
        unsafe { self.stream().convert([weight.kind, kind], len, weight.allocation.pointer, to)? };
        Ok(to)
    }

    /// A small matrix in the type of a product, converted into scratch where it has another. `slot`: one for each operand of a product.
    fn operand(
        &self,
        slot: usize,
        matrix: &Matrix<'_, CudaBuffer>,
        [rows, columns]: [usize; 2],
        kind: NumberType,
    ) -> Result<Operand> {
        let Matrix { view, row_stride, column_stride } = *matrix;
        let pointer = place_matrix(matrix, rows, columns)?;
        let found = view.buffer.kind;
        if found == kind {
            return Ok(Operand { pointer, row_stride, column_stride });
        }
        let len = extent(rows, columns, row_stride, column_stride);
        let to = self.scratch(slot, len * kind.bytes())?;
        // SAFETY: the matrix from its first to its last number.
        unsafe { self.stream().convert([found, kind], len, pointer, to)? };
        Ok(Operand { pointer: to, row_stride, column_stride })
    }

    pub(super) fn product(
        &self,
        [m, n, k]: [usize; 3],
        alpha: f64,
        a: &Matrix<'_, CudaBuffer>,
        b: &Matrix<'_, CudaBuffer>,
        accumulate: bool,
        c: MatrixMut<'_, CudaBuffer>,
    ) -> Result<()> {
        // Of two types the shorter one: activations meet adapters, which are kept in f32.
        let kind = match (a.view.buffer.kind, b.view.buffer.kind) {
            (NumberType::F32, other) | (other, _) => other,
        };
        let left = self.operand(1, a, [m, k], kind)?;
        let right = self.operand(2, b, [k, n], kind)?;
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
            start: accumulate.then_some(pointer),
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
        mut out: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        let (n, k, kind) = (weight.rows, weight.columns, x.buffer.kind);
        let (from, to) = (place(x, rows * k)?, place_mut(&out, rows * n)?);
        let product = Product {
            m: rows,
            n,
            k,
            alpha: 1.0,
            inputs: kind,
            a: Operand { pointer: from, row_stride: k, column_stride: 1 },
            b: Operand { pointer: self.plain_weight(weight, kind)?, row_stride: 1, column_stride: k },
            output: out.buffer.kind,
            c: Operand { pointer: to, row_stride: n, column_stride: 1 },
            start: residual.map(|residual| self.same_kind(residual, out.buffer.kind, rows * n)).transpose()?,
        };
        // SAFETY: operands were checked whole; `out` is borrowed alone.
        unsafe { self.multiplier().multiply(&product)? };
        if let Some(term) = low_rank {
            self.add_low_rank(rows, n, &term, &mut out)?;
        }
        if let Some(bias) = bias {
            // SAFETY: as above.
            unsafe { self.stream().add_bias(out.buffer.kind, [rows, n], to, bias.place(0, n)?)? };
        }
        Ok(())
    }

    pub(super) fn grad_input(
        &self,
        rows: usize,
        layers: &[LinearGradTerm<'_, Self>],
        low_rank: Option<LowRankTerm<'_, CudaBuffer>>,
        mut input_grad: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        let n = layers.first().map(|layer| layer.weight.columns);
        let n = n.ok_or_else(|| EngineError::internal("a gradient of no layer was asked for"))?;
        let to = place_mut(&input_grad, rows * n)?;
        for (index, LinearGradTerm { output_grad, weight }) in layers.iter().enumerate() {
            let (k, kind) = (weight.rows, output_grad.buffer.kind);
            if weight.columns != n {
                let found = weight.columns;
                return Err(EngineError::internal(format!("layers with {n} and {found} inputs share one")));
            }
            let product = Product {
                m: rows,
                n,
                k,
                alpha: 1.0,
                inputs: kind,
                a: Operand { pointer: place(*output_grad, rows * k)?, row_stride: k, column_stride: 1 },
                b: Operand { pointer: self.plain_weight(weight, kind)?, row_stride: n, column_stride: 1 },
                output: input_grad.buffer.kind,
                c: Operand { pointer: to, row_stride: n, column_stride: 1 },
                start: (index > 0).then_some(to),
            };
            // SAFETY: operands were checked whole; the result is borrowed alone.
            unsafe { self.multiplier().multiply(&product)? };
        }
        match low_rank {
            Some(term) => self.add_low_rank(rows, n, &term, &mut input_grad),
            None => Ok(()),
        }
    }

    fn add_low_rank(
        &self,
        rows: usize,
        n: usize,
        term: &LowRankTerm<'_, CudaBuffer>,
        out: &mut ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        let out = ViewMut::at(&mut *out.buffer, out.offset).rows(n);
        self.product([rows, n, term.rank], 1.0, &term.left, &term.right, true, out)
    }

    fn same_kind(&self, view: View<'_, CudaBuffer>, kind: NumberType, len: usize) -> Result<DevicePointer> {
        if view.buffer.kind == kind {
            return place(view, len);
        }
        Err(EngineError::internal(format!("{:?} is added to {kind:?}", view.buffer.kind)))
    }
}
