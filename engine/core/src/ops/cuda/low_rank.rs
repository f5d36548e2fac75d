//! Low-rank halves of linear layers: our kernels where they take the sizes, general products otherwise.

use luthier_kernels::{
    DevicePointer, LowRankExpansion, LowRankGradients as Kernel, LowRankLayer as KernelLayer, NumberType,
};

use super::device::CudaOps;
use super::linear::Start;
use super::memory::{CudaBuffer, place, place_mut};
use crate::error::{EngineError, Result};
use crate::ops::view::extent;
use crate::ops::{LowRankGradients, LowRankTerm, ViewMut};

impl CudaOps {
    /// `out [rows, n]` = start + the term.
    pub(super) fn expand(
        &self,
        [rows, n]: [usize; 2],
        term: &LowRankTerm<'_, CudaBuffer>,
        start: Option<DevicePointer>,
        out: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        let kind = out.buffer.kind;
        let expansion = LowRankExpansion {
            rows,
            columns: n,
            rank: term.rank,
            left: self.operand(&term.left, [rows, term.rank], kind)?,
            right: self.operand(&term.right, [term.rank, n], kind)?,
            start,
            out: place_mut(&out, rows * n)?,
        };
        if expansion.fits(kind) {
            // SAFETY: operands were checked whole; `out` is borrowed alone.
            return unsafe { self.stream().low_rank_expand(kind, &expansion) }.map_err(EngineError::from);
        }
        let start = start.map_or(Start::Zero, Start::Other);
        self.product([rows, n, term.rank], 1.0, &term.left, &term.right, start, out.rows(n))
    }

    /// Both products with one pass over the output gradients; false where the kernels do not take the sizes.
    pub(super) fn gradients_in_one_pass(&self, of: &mut LowRankGradients<'_, CudaBuffer>) -> Result<bool> {
        let (rows, rank, kind) = (of.rows, of.rank, of.hidden.buffer.kind);
        if kind == NumberType::F32 || of.hidden_grad.buffer.kind != kind {
            return Ok(false);
        }
        let mut layers = Vec::with_capacity(of.layers.len());
        for layer in of.layers {
            let len = layer.out_features * rank;
            if layer.output_grad.buffer.kind != kind
                || layer.hidden_column + rank > of.hidden_stride
                || layer.grad_column + rank > of.grad_stride
            {
                return Err(EngineError::internal("layers whose low-rank halves do not fit one pass"));
            }
            layers.push(KernelLayer {
                out_features: layer.out_features,
                output_grad: place(layer.output_grad, rows * layer.out_features)?,
                b: of.parameters.converted(kind, layer.b_offset, len)?,
                b_grad: of.gradients.place_mut(layer.b_offset, len)?,
                hidden_column: layer.hidden_column,
                grad_column: layer.grad_column,
            });
        }
        let width = |columns: usize, stride: usize| extent(rows, columns, stride, 1);
        let last = |column: fn(&KernelLayer) -> usize| layers.iter().map(column).max().unwrap_or(0) + rank;
        let kernel = Kernel {
            rows,
            rank,
            scale: of.scale as f32,
            hidden: place(of.hidden, width(last(|layer| layer.hidden_column), of.hidden_stride))?,
            hidden_stride: of.hidden_stride,
            hidden_grad: place_mut(&of.hidden_grad, width(last(|layer| layer.grad_column), of.grad_stride))?,
            grad_stride: of.grad_stride,
            layers: &layers,
        };
        if !kernel.fits(kind) || of.gradients.kind != NumberType::F32 {
            return Ok(false);
        }
        let scratch = self.scratch(kernel.scratch_bytes())?;
        // SAFETY: places and types were checked.
        unsafe { self.stream().low_rank_gradients(kind, &kernel, scratch)? };
        Ok(true)
    }
}
