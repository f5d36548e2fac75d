//! The gated activation of an MLP together with the linear layer beside it.

use super::{LinearGradTerm, LowRankTerm, Ops, View, ViewMut};
use crate::error::Result;

/// The up-projection of a gated MLP, and what it is activated with.
pub struct GatedForward<'a, O: Ops + ?Sized> {
    pub rows: usize,
    /// `[rows, in]`: input of the up-projection.
    pub x: View<'a, O::Buffer>,
    /// `[out, in]`
    pub weight: &'a O::Weight,
    /// `[out]`
    pub bias: Option<&'a O::Buffer>,
    pub low_rank: Option<LowRankTerm<'a, O::Buffer>>,
    /// `[rows, out]`: output of the gate-projection.
    pub gate: View<'a, O::Buffer>,
    /// `[rows, out]`: output of the up-projection.
    pub up: ViewMut<'a, O::Buffer>,
    /// `[rows, out]`: silu(gate) · up.
    pub activated: ViewMut<'a, O::Buffer>,
}

/// The gradient of the activated values, which are the input of a down-projection, and what becomes of it.
pub struct GatedBackward<'a, O: Ops + ?Sized> {
    pub rows: usize,
    /// Of the down-projection `[hidden, out]`.
    pub term: LinearGradTerm<'a, O>,
    pub low_rank: Option<LowRankTerm<'a, O::Buffer>>,
    /// `[rows, out]`: replaced by the gradient with respect to it; `up` alike.
    pub gate: ViewMut<'a, O::Buffer>,
    pub up: ViewMut<'a, O::Buffer>,
    /// `[rows, out]`: silu(gate) · up, once more.
    pub activated: ViewMut<'a, O::Buffer>,
    /// `[rows, out]`: room for the gradient of the activated values; what it holds afterwards is not defined.
    pub activated_grad: ViewMut<'a, O::Buffer>,
}

impl<O: Ops + ?Sized> GatedForward<'_, O> {
    /// One after the other.
    pub(crate) fn in_parts(self, ops: &O) -> Result<()> {
        let Self { rows, x, weight, bias, low_rank, gate, mut up, activated } = self;
        let (out_features, _) = ops.weight_shape(weight);
        ops.linear_forward(rows, x, weight, bias, low_rank, None, up.reborrow())?;
        ops.swiglu(rows * out_features, gate, View::at(up.buffer, up.offset), activated)
    }
}

impl<O: Ops + ?Sized> GatedBackward<'_, O> {
    /// One after the other.
    pub(crate) fn in_parts(self, ops: &O) -> Result<()> {
        let Self { rows, term, low_rank, gate, up, activated, activated_grad: mut grad } = self;
        let (_, in_features) = ops.weight_shape(term.weight);
        ops.linear_grad_input(rows, &[term], low_rank, grad.reborrow())?;
        ops.swiglu_backward(rows * in_features, View::at(grad.buffer, grad.offset), gate, up, activated)
    }
}
