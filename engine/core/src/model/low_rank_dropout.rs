//! The low-rank halves under dropout: each layer reads its own masked copy of the input, drawn again wherever it is needed.

use super::dropout::Dropout;
use super::linear::InputGroup;
use super::low_rank::BlockAdapter;
use crate::error::{EngineError, Result};
use crate::lora::LoraModule;
use crate::ops::{DropoutMask, Ops, View, ViewMut};

/// Scratch of a masked copy: `[rows, in_features]`.
fn room<O: Ops>(dropped: &mut Option<O::Buffer>) -> Result<&mut O::Buffer> {
    dropped.as_mut().ok_or_else(|| EngineError::internal("scratch has no room for dropout"))
}

impl<O: Ops> BlockAdapter<'_, O> {
    fn mask(&self, dropout: Dropout, module: &LoraModule) -> DropoutMask {
        dropout.mask(self.layer, module.module)
    }

    /// As [`Self::project`]: `low_rank` = scale · (input ∘ mask / (1 − p)) · Aᵀ, a layer at a time.
    #[expect(clippy::too_many_arguments, reason = "input, scratch and result of a whole group")]
    pub(super) fn project_dropped(
        &self,
        ops: &O,
        rows: usize,
        group: InputGroup,
        dropout: Dropout,
        input: &O::Buffer,
        dropped: &mut Option<O::Buffer>,
        low_rank: &mut O::Buffer,
    ) -> Result<()> {
        let lora = self.group(group);
        let (in_features, len) = (lora.in_features, rows * lora.in_features);
        for module in &lora.modules {
            let dropped = room::<O>(dropped)?;
            ops.dropout(len, self.mask(dropout, module), View::from(input), false, ViewMut::from(&mut *dropped))?;
            let a = View::at(&self.adapter.parameters, module.a_offset).columns(in_features);
            let out = ViewMut::at(low_rank, lora.first_column + module.column).rows(self.columns());
            ops.gemm(
                rows,
                module.r,
                in_features,
                module.scale,
                View::from(&*dropped).rows(in_features),
                a,
                false,
                out,
            )?;
        }
        Ok(())
    }

    /// Adds the low-rank halves' part to the gradient of the group's input, from what [`Self::backward_output`] left in `low_rank_grad`:
    /// `mask / (1 − p) ∘ (scale · g · B · A)` of each layer. Nothing without dropout, where it is there already.
    pub(super) fn add_dropped_input_grad(
        &self,
        ops: &O,
        rows: usize,
        group: InputGroup,
        low_rank_grad: &O::Buffer,
        dropped: &mut Option<O::Buffer>,
        input_grad: &mut O::Buffer,
    ) -> Result<()> {
        let Some(dropout) = self.dropout else { return Ok(()) };
        let lora = self.group(group);
        let (in_features, len) = (lora.in_features, rows * lora.in_features);
        for module in &lora.modules {
            let dropped = room::<O>(dropped)?;
            let left = View::at(low_rank_grad, module.column).rows(lora.columns);
            let a = View::at(&self.adapter.parameters, module.a_offset).rows(in_features);
            ops.gemm(rows, in_features, module.r, 1.0, left, a, false, ViewMut::from(&mut *dropped).rows(in_features))?;
            let mask = self.mask(dropout, module);
            ops.dropout(len, mask, View::from(&*dropped), true, ViewMut::from(&mut *input_grad))?;
        }
        Ok(())
    }

    /// As [`Self::backward_input`]: adds the gradients of the group's A, each from its own masked copy of the input.
    #[expect(clippy::too_many_arguments, reason = "inputs, scratch and result of a whole group")]
    pub(super) fn backward_input_dropped(
        &self,
        ops: &O,
        rows: usize,
        group: InputGroup,
        dropout: Dropout,
        input: &O::Buffer,
        dropped: &mut Option<O::Buffer>,
        low_rank_grad: &O::Buffer,
        gradients: &mut O::Buffer,
    ) -> Result<()> {
        let lora = self.group(group);
        let (in_features, len) = (lora.in_features, rows * lora.in_features);
        for module in &lora.modules {
            let dropped = room::<O>(dropped)?;
            ops.dropout(len, self.mask(dropout, module), View::from(input), false, ViewMut::from(&mut *dropped))?;
            // dA [r, in] += (scale · g · B)ᵀ · x, masked.
            let left = View::at(low_rank_grad, module.column).columns(lora.columns);
            let place = ViewMut::at(gradients, module.a_offset).rows(in_features);
            ops.gemm(module.r, in_features, rows, 1.0, left, View::from(&*dropped).rows(in_features), true, place)?;
        }
        Ok(())
    }
}
