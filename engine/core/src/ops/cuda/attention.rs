//! Attention: cuDNN where it takes the shape, our kernels otherwise.

use luthier_kernels::{
    AttentionArrays, AttentionBackwardArrays, AttentionSizes, CachedAttentionArrays, CachedAttentionSizes, Cudnn,
    DevicePointer, MAX_HEAD_DIM, NumberType,
};

use super::device::CudaOps;
use super::memory::{CudaBuffer, CudaIndices, one_kind, place, place_mut, single};
use crate::error::{EngineError, Result};
use crate::ops::{AttentionGrads, AttentionInputs, AttentionSaved, AttentionShape, ViewMut};

impl CudaOps {
    /// [`Ops::attention`](crate::ops::Ops::attention).
    pub(super) fn packed_attention(
        &self,
        shape: AttentionShape,
        borders: &CudaIndices,
        inputs: AttentionInputs<'_, CudaBuffer>,
        output: ViewMut<'_, CudaBuffer>,
        log_sum_exp: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        let sizes = sizes(shape, &borders.values)?;
        let kind = one_kind([inputs.query.buffer, inputs.key.buffer, inputs.value.buffer, output.buffer])?;
        single(log_sum_exp.buffer)?;
        let output = place_mut(&output, sizes.rows * shape.heads * shape.head_dim)?;
        let log_sum_exp = place_mut(&log_sum_exp, sizes.rows * shape.heads)?;
        let arrays = attention_arrays(sizes, borders, &inputs, output, log_sum_exp)?;
        // SAFETY: places, types and borders were checked.
        unsafe {
            match self.cudnn_scratch(kind, sizes, false)? {
                Some((cudnn, scratch)) => cudnn.attention(kind, sizes, &arrays, None, scratch)?,
                None => self.stream().attention(kind, sizes, &arrays)?,
            }
        }
        Ok(())
    }

    /// [`Ops::attention_backward`](crate::ops::Ops::attention_backward).
    pub(super) fn packed_attention_backward(
        &self,
        shape: AttentionShape,
        borders: &CudaIndices,
        inputs: AttentionInputs<'_, CudaBuffer>,
        saved: AttentionSaved<'_, CudaBuffer>,
        grads: AttentionGrads<'_, CudaBuffer>,
    ) -> Result<()> {
        let sizes = sizes(shape, &borders.values)?;
        let AttentionSaved { output, log_sum_exp, output_grad } = saved;
        let kind = one_kind([
            inputs.query.buffer,
            inputs.key.buffer,
            inputs.value.buffer,
            output.buffer,
            output_grad.buffer,
            grads.query.buffer,
            grads.key.buffer,
            grads.value.buffer,
        ])?;
        single(log_sum_exp.buffer)?;
        let wide = sizes.rows * shape.heads * shape.head_dim;
        let narrow = sizes.rows * shape.key_value_heads * shape.head_dim;
        let log_sum_exp = place(log_sum_exp, sizes.rows * shape.heads)?;
        let arrays = attention_arrays(sizes, borders, &inputs, place(output, wide)?, log_sum_exp)?;
        let backward = AttentionBackwardArrays {
            output_grad: place(output_grad, wide)?,
            query_grad: place_mut(&grads.query, wide)?,
            key_grad: place_mut(&grads.key, narrow)?,
            value_grad: place_mut(&grads.value, narrow)?,
        };
        // SAFETY: places, types and borders were checked.
        unsafe {
            if let Some((cudnn, scratch)) = self.cudnn_scratch(kind, sizes, true)? {
                cudnn.attention(kind, sizes, &arrays, Some(&backward), scratch)?;
            } else {
                let pull = self.scratch(sizes.rows * shape.heads * size_of::<f32>())?;
                self.stream().attention_backward(kind, sizes, &arrays, &backward, pull)?;
            }
        }
        Ok(())
    }

    /// [`Ops::cached_attention`](crate::ops::Ops::cached_attention).
    pub(super) fn attention_over_cache(
        &self,
        shape: AttentionShape,
        rows: usize,
        positions: usize,
        inputs: AttentionInputs<'_, CudaBuffer>,
        output: ViewMut<'_, CudaBuffer>,
    ) -> Result<()> {
        let [wide, narrow] = shape.cached_sizes(rows, positions)?;
        let AttentionShape { heads, key_value_heads, head_dim, window, alibi } = shape;
        not_too_wide(head_dim)?;
        let kind = one_kind([inputs.query.buffer, inputs.key.buffer, inputs.value.buffer, output.buffer])?;
        let arrays = CachedAttentionArrays {
            query: place(inputs.query, wide)?,
            key: place(inputs.key, narrow)?,
            value: place(inputs.value, narrow)?,
            output: place_mut(&output, wide)?,
        };
        let sizes = CachedAttentionSizes { rows, positions, heads, key_value_heads, head_dim, window, alibi };
        // SAFETY: places, types and sizes were checked; the output is borrowed alone.
        unsafe { self.stream().cached_attention(kind, sizes, &arrays) }.map_err(EngineError::from)
    }

    /// cuDNN and scratch for it, where it takes attention of these sizes.
    fn cudnn_scratch(
        &self,
        kind: NumberType,
        sizes: AttentionSizes,
        backward: bool,
    ) -> Result<Option<(&Cudnn, DevicePointer)>> {
        let Ok(cudnn) = &self.cudnn else { return Ok(None) };
        let bytes = cudnn.scratch_bytes(kind, sizes, backward);
        bytes.map(|bytes| Ok((cudnn, self.scratch(bytes)?))).transpose()
    }
}

fn not_too_wide(head_dim: usize) -> Result<()> {
    if head_dim <= MAX_HEAD_DIM {
        return Ok(());
    }
    Err(EngineError::internal(format!("heads of {head_dim}; the kernels take up to {MAX_HEAD_DIM}")))
}

fn sizes(shape: AttentionShape, borders: &[u32]) -> Result<AttentionSizes> {
    let AttentionShape { heads, key_value_heads, head_dim, window, alibi } = shape;
    let [rows, ..] = shape.sizes(borders)?;
    not_too_wide(head_dim)?;
    Ok(AttentionSizes {
        sequences: borders.len() - 1,
        longest: borders.windows(2).map(|pair| (pair[1] - pair[0]) as usize).max().unwrap_or(0),
        rows,
        heads,
        key_value_heads,
        head_dim,
        window,
        alibi,
    })
}

fn attention_arrays(
    sizes: AttentionSizes,
    borders: &CudaIndices,
    inputs: &AttentionInputs<'_, CudaBuffer>,
    output: DevicePointer,
    log_sum_exp: DevicePointer,
) -> Result<AttentionArrays> {
    let wide = sizes.rows * sizes.heads * sizes.head_dim;
    let narrow = sizes.rows * sizes.key_value_heads * sizes.head_dim;
    Ok(AttentionArrays {
        borders: borders.pointer(),
        query: place(inputs.query, wide)?,
        key: place(inputs.key, narrow)?,
        value: place(inputs.value, narrow)?,
        output,
        log_sum_exp,
    })
}
