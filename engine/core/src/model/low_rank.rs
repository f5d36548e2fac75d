//! The low-rank halves of the linear layers that share an input.

use super::dropout::Dropout;
use super::linear::{InputGroup, LinearModule};
use super::weights::LayerWeights;
use crate::error::{EngineError, Result};
use crate::lora::{LoraAdapter, LoraGroup};
use crate::ops::{LinearGradTerm, LowRankGradients, LowRankLayer, LowRankTerm, Ops, View, ViewMut};

/// A block's adapter: the products with A of all its groups lie side by side in rows of `columns`.
pub(super) struct BlockAdapter<'a, O: Ops> {
    pub adapter: &'a LoraAdapter<O>,
    pub layer: usize,
    /// Where it is set, each layer reads its own masked copy of the input: see `low_rank_dropout.rs`.
    pub dropout: Option<Dropout>,
}

/// The gradient of one linear layer's output.
pub(super) struct OutputGrad<'a, O: Ops> {
    pub module: LinearModule,
    pub grad: &'a O::Buffer,
}

impl<'a, O: Ops> BlockAdapter<'a, O> {
    pub(super) fn group(&self, group: InputGroup) -> &'a LoraGroup {
        self.adapter.layout.group(self.layer, group)
    }

    pub(super) fn columns(&self) -> usize {
        self.adapter.layout.columns(self.layer)
    }

    /// `low_rank` = scale · input · Aᵀ for all layers of the group, in one product where their scales are the same. `dropped`: scratch of dropout.
    pub fn project(
        &self,
        ops: &O,
        rows: usize,
        group: InputGroup,
        input: &O::Buffer,
        dropped: &mut Option<O::Buffer>,
        low_rank: &mut O::Buffer,
    ) -> Result<()> {
        if let Some(dropout) = self.dropout {
            return self.project_dropped(ops, rows, group, dropout, input, dropped, low_rank);
        }
        let group = self.group(group);
        for modules in group.of_one_scale() {
            let (first, columns) = (&modules[0], modules.iter().map(|module| module.r).sum());
            let a = View::at(&self.adapter.parameters, first.a_offset).columns(group.in_features);
            let out = ViewMut::at(low_rank, group.first_column + first.column).rows(self.columns());
            let input = View::from(input).rows(group.in_features);
            ops.gemm(rows, columns, group.in_features, first.scale, input, a, false, out)?;
        }
        Ok(())
    }

    /// What a layer's low-rank half adds to its output, where it has one.
    pub fn output_term(
        &self,
        group: InputGroup,
        module: LinearModule,
        low_rank: &'a O::Buffer,
    ) -> Option<LowRankTerm<'a, O::Buffer>> {
        let group = self.group(group);
        let lora = group.module(module)?;
        Some(LowRankTerm {
            rank: lora.r,
            left: View::at(low_rank, group.first_column + lora.column).rows(self.columns()),
            right: View::at(&self.adapter.parameters, lora.b_offset).columns(lora.r),
        })
    }

    /// Backward pass of the linear layers of a group, frozen and low-rank halves together, but for the gradient of A, which
    /// [`Self::backward_input`] adds: the group's input may only be there afterwards.
    ///
    /// As [`Self::backward_low_rank`]; with `input_grad`, writes the gradient of the shared input there; under dropout,
    /// [`Self::add_dropped_input_grad`] adds the low-rank halves' part.
    #[expect(clippy::too_many_arguments, reason = "inputs, scratch and results of a whole group")]
    pub fn backward_output(
        &self,
        ops: &O,
        rows: usize,
        weights: &LayerWeights<O>,
        group: InputGroup,
        output_grads: &[OutputGrad<'_, O>],
        low_rank: &O::Buffer,
        low_rank_grad: &mut O::Buffer,
        gradients: &mut O::Buffer,
        input_grad: Option<&mut O::Buffer>,
    ) -> Result<()> {
        self.backward_low_rank(ops, rows, group, output_grads, low_rank, low_rank_grad, gradients)?;
        let Some(input_grad) = input_grad else { return Ok(()) };
        let terms: Vec<LinearGradTerm<'_, O>> = output_grads
            .iter()
            .map(|grad| LinearGradTerm {
                output_grad: View::from(grad.grad),
                weight: &weights.linear(grad.module).weight,
            })
            .collect();
        ops.linear_grad_input(rows, &terms, self.input_term(group, low_rank_grad), ViewMut::from(input_grad))
    }

    /// Adds the gradients of B to `gradients`, and leaves scale · g · B in `low_rank_grad`.
    #[expect(clippy::too_many_arguments, reason = "inputs, scratch and results of a whole group")]
    pub fn backward_low_rank(
        &self,
        ops: &O,
        rows: usize,
        group: InputGroup,
        output_grads: &[OutputGrad<'_, O>],
        low_rank: &O::Buffer,
        low_rank_grad: &mut O::Buffer,
        gradients: &mut O::Buffer,
    ) -> Result<()> {
        let lora = self.group(group);
        let columns = lora.columns;
        for modules in lora.of_one_rank() {
            let mut layers: Vec<LowRankLayer<'_, O::Buffer>> = Vec::with_capacity(modules.len());
            for module in modules {
                let Some(OutputGrad { grad, .. }) = output_grads.iter().find(|grad| grad.module == module.module)
                else {
                    return Err(EngineError::internal(format!("`{}` has no output gradient", module.path())));
                };
                layers.push(LowRankLayer {
                    out_features: module.out_features,
                    output_grad: View::from(*grad),
                    b_offset: module.b_offset,
                    hidden_column: lora.first_column + module.column,
                    grad_column: module.column,
                });
            }
            ops.low_rank_gradients(LowRankGradients {
                rows,
                rank: modules[0].r,
                scale: modules[0].scale,
                layers: &layers,
                parameters: &self.adapter.parameters,
                hidden: View::from(low_rank),
                hidden_stride: self.columns(),
                hidden_grad: ViewMut::from(&mut *low_rank_grad),
                grad_stride: columns,
                gradients,
            })?;
        }
        Ok(())
    }

    /// What a group's low-rank halves add to the gradient of its input, from what [`Self::backward_low_rank`] left; nothing under dropout, where
    /// [`Self::add_dropped_input_grad`] does.
    pub fn input_term<'g>(
        &'g self,
        group: InputGroup,
        low_rank_grad: &'g O::Buffer,
    ) -> Option<LowRankTerm<'g, O::Buffer>> {
        let lora = self.group(group);
        let (columns, in_features) = (lora.columns, lora.in_features);
        (columns > 0 && self.dropout.is_none()).then(|| LowRankTerm {
            rank: columns,
            left: View::from(low_rank_grad).rows(columns),
            right: View::at(&self.adapter.parameters, lora.a_offset).rows(in_features),
        })
    }

    /// Adds the gradients of the group's A to `gradients`, from the group's input and what [`Self::backward_output`] left in `low_rank_grad`.
    /// `dropped`: scratch of dropout.
    #[expect(clippy::too_many_arguments, reason = "inputs, scratch and result of a whole group")]
    pub fn backward_input(
        &self,
        ops: &O,
        rows: usize,
        group: InputGroup,
        input: &O::Buffer,
        dropped: &mut Option<O::Buffer>,
        low_rank_grad: &O::Buffer,
        gradients: &mut O::Buffer,
    ) -> Result<()> {
        if let Some(dropout) = self.dropout {
            return self.backward_input_dropped(ops, rows, group, dropout, input, dropped, low_rank_grad, gradients);
        }
        let lora = self.group(group);
        let (columns, in_features) = (lora.columns, lora.in_features);
        if columns == 0 {
            return Ok(());
        }
        let left = View::from(low_rank_grad).columns(columns);
        let place = ViewMut::at(gradients, lora.a_offset).rows(in_features);
        ops.gemm(columns, in_features, rows, 1.0, left, View::from(input).rows(in_features), true, place)
    }
}
