//! The low-rank halves of linear layers: what devices are told of them.

use super::Ops;
use super::view::{Matrix, MatrixMut, View, ViewMut};
use crate::error::Result;

/// The low-rank half of a linear layer: `left [rows, rank] · right`, added to the product with the frozen weight. It stands beside the
/// weight so that a device can take both products in one pass.
pub struct LowRankTerm<'a, B> {
    pub rank: usize,
    pub left: Matrix<'a, B>,
    /// `[rank, columns of the result]`
    pub right: Matrix<'a, B>,
}

/// One of the layers with a low-rank half that share an input, in the backward pass.
pub struct LowRankLayer<'a, B> {
    pub out_features: usize,
    /// `[rows, out_features]`
    pub output_grad: View<'a, B>,
    /// Where B `[out_features, rank]` lies in the adapter's parameters, and its gradient among the gradients.
    pub b_offset: usize,
    /// First column of the layer's products with A, and of their gradients.
    pub hidden_column: usize,
    pub grad_column: usize,
}

/// What [`Ops::low_rank_gradients`] reads and writes.
pub struct LowRankGradients<'a, B> {
    pub rows: usize,
    pub rank: usize,
    /// lora_alpha / r, or what takes its place.
    pub scale: f64,
    pub layers: &'a [LowRankLayer<'a, B>],
    /// The adapter's matrices.
    pub parameters: &'a B,
    /// `[rows, hidden_stride]`: scale · x · Aᵀ of every layer.
    pub hidden: View<'a, B>,
    pub hidden_stride: usize,
    /// `[rows, grad_stride]`: becomes scale · g · B of every layer.
    pub hidden_grad: ViewMut<'a, B>,
    pub grad_stride: usize,
    /// Laid out as the parameters: the gradients of B are added.
    pub gradients: &'a mut B,
}

impl<B> LowRankGradients<'_, B> {
    /// One product after another.
    pub(super) fn into_products<O: Ops<Buffer = B> + ?Sized>(self, ops: &O) -> Result<()> {
        let Self { rows, rank, scale, hidden, hidden_stride, grad_stride, .. } = self;
        for layer in self.layers {
            let out_features = layer.out_features;
            let b = View::at(self.parameters, layer.b_offset).rows(rank);
            let place = ViewMut::at(&mut *self.hidden_grad.buffer, self.hidden_grad.offset + layer.grad_column);
            let (output_grad, place) = (layer.output_grad.rows(out_features), place.rows(grad_stride));
            ops.gemm(rows, rank, out_features, scale, output_grad, b, false, place)?;
            // dBᵀ [r, out] += hᵀ · g; B is stored [out, r].
            let hidden = Matrix {
                view: View::at(hidden.buffer, hidden.offset + layer.hidden_column),
                row_stride: 1,
                column_stride: hidden_stride,
            };
            let view = ViewMut::at(&mut *self.gradients, layer.b_offset);
            let place = MatrixMut { view, row_stride: 1, column_stride: rank };
            ops.gemm(rank, out_features, rows, 1.0, hidden, layer.output_grad.rows(out_features), true, place)?;
        }
        Ok(())
    }
}
