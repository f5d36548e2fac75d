//! Backward pass of one block: gradients of the adapter's matrices and of the block's input.

use super::activations::{BackwardScratch, LayerActivations, Scratch};
use super::batch::PackedBatch;
use super::block::Block;
use super::linear::{InputGroup, LinearModule};
use super::low_rank::OutputGrad;
use crate::error::{EngineError, Result};
use crate::ops::{AttentionGrads, AttentionInputs, AttentionSaved, GatedBackward, LinearGradTerm, Ops, View, ViewMut};

impl<O: Ops> Block<'_, O> {
    /// Turns the gradient of the block's output, in the scratch's residual stream, into that of its input, and adds the adapter's gradients
    /// to `gradients`. Uses up `saved.gate` and `saved.up`, and with norms of heads `saved.query` and
    /// `saved.key`. `input_needed`: blocks below have adapters; without it the last step is left out.
    #[expect(clippy::too_many_arguments, reason = "the state of the pass, taken apart once")]
    pub fn backward(
        &self,
        batch: &PackedBatch<O>,
        input: &O::Buffer,
        saved: &mut LayerActivations<O>,
        low_rank: &O::Buffer,
        scratch: &mut Scratch<O>,
        gradients: &mut O::Buffer,
        input_needed: bool,
    ) -> Result<()> {
        let mut backward =
            scratch.backward.take().ok_or_else(|| EngineError::internal("scratch has no room for a backward pass"))?;
        let mlp = self.mlp_backward(batch, saved, low_rank, scratch, &mut backward, gradients);
        let whole = mlp.and_then(|()| {
            self.attention_backward(batch, input, saved, low_rank, scratch, &mut backward, gradients, input_needed)
        });
        scratch.backward = Some(backward);
        whole
    }

    fn mlp_backward(
        &self,
        batch: &PackedBatch<O>,
        saved: &mut LayerActivations<O>,
        low_rank: &O::Buffer,
        scratch: &mut Scratch<O>,
        grads: &mut BackwardScratch<O>,
        gradients: &mut O::Buffer,
    ) -> Result<()> {
        let (ops, rows) = (self.ops, self.rows_after_attention(batch));
        let (group, module) = (InputGroup::Down, LinearModule::Down);
        let output_grad = [OutputGrad { module, grad: &grads.hidden }];
        self.adapter.backward_low_rank(ops, rows, group, &output_grad, low_rank, &mut grads.low_rank, gradients)?;
        let term = LinearGradTerm { output_grad: (&grads.hidden).into(), weight: &self.weights.linear(module).weight };
        let (gate, up, activated) = (&mut saved.gate, &mut saved.up, &mut scratch.activated);
        if self.adapter.dropout.is_none() {
            ops.gated_backward(GatedBackward {
                rows,
                term,
                low_rank: self.adapter.input_term(group, &grads.low_rank),
                gate: gate.into(),
                up: up.into(),
                activated: activated.into(),
                activated_grad: (&mut grads.activated).into(),
            })?;
        } else {
            ops.linear_grad_input(rows, &[term], None, (&mut grads.activated).into())?;
            let (low_rank_grad, dropped) = (&grads.low_rank, &mut scratch.dropped);
            self.adapter.add_dropped_input_grad(ops, rows, group, low_rank_grad, dropped, &mut grads.activated)?;
            let len = rows * self.config.intermediate_size;
            ops.swiglu_backward(len, (&grads.activated).into(), gate.into(), up.into(), activated.into())?;
        }
        self.adapter.backward_input(
            ops,
            rows,
            group,
            &scratch.activated,
            &mut scratch.dropped,
            &grads.low_rank,
            gradients,
        )?;
        self.adapter.backward_output(
            ops,
            rows,
            self.weights,
            InputGroup::GateUp,
            &[
                OutputGrad { module: LinearModule::Gate, grad: &saved.gate },
                OutputGrad { module: LinearModule::Up, grad: &saved.up },
            ],
            low_rank,
            &mut grads.low_rank,
            gradients,
            Some(&mut grads.normed_or_attention),
        )?;
        self.adapter.add_dropped_input_grad(
            ops,
            rows,
            InputGroup::GateUp,
            &grads.low_rank,
            &mut scratch.dropped,
            &mut grads.normed_or_attention,
        )?;
        let weight = &self.weights.post_attention_norm;
        self.norm_backward(rows, &saved.middle, weight, &saved.middle_factors, scratch, grads)?;
        let (group, input) = (InputGroup::GateUp, &scratch.normed);
        self.adapter.backward_input(ops, rows, group, input, &mut scratch.dropped, &grads.low_rank, gradients)
    }

    #[expect(clippy::too_many_arguments, reason = "the state of the pass, taken apart once")]
    fn attention_backward(
        &self,
        batch: &PackedBatch<O>,
        input: &O::Buffer,
        saved: &mut LayerActivations<O>,
        low_rank: &O::Buffer,
        scratch: &mut Scratch<O>,
        grads: &mut BackwardScratch<O>,
        gradients: &mut O::Buffer,
        input_needed: bool,
    ) -> Result<()> {
        let (ops, rows, shape) = (self.ops, batch.rows, self.config.attention_shape());
        self.attention_output_backward(batch, saved, low_rank, scratch, grads, gradients)?;
        let inputs = AttentionInputs {
            query: View::from(&saved.query),
            key: View::from(&saved.key),
            value: View::from(&saved.value),
        };
        let forward = AttentionSaved {
            output: View::from(&saved.attention),
            log_sum_exp: View::from(&saved.log_sum_exp),
            output_grad: View::from(&grads.normed_or_attention),
        };
        let results = AttentionGrads {
            query: (&mut grads.query).into(),
            key: (&mut grads.key).into(),
            value: (&mut grads.value).into(),
        };
        ops.attention_backward(shape, &batch.borders, inputs, forward, results)?;
        for (x, heads) in [(&mut grads.query, shape.heads), (&mut grads.key, shape.key_value_heads)] {
            if let Some(rope) = self.config.rope_shape(heads) {
                ops.rope(x.into(), rope, self.angles, &batch.positions, true)?;
            }
        }
        let [query_grad, key_grad] = self.head_norms_backward(rows, saved, [&grads.query, &grads.key])?;
        self.adapter.backward_output(
            ops,
            rows,
            self.weights,
            InputGroup::QueryKeyValue,
            &[
                OutputGrad { module: LinearModule::Query, grad: query_grad },
                OutputGrad { module: LinearModule::Key, grad: key_grad },
                OutputGrad { module: LinearModule::Value, grad: &grads.value },
            ],
            low_rank,
            &mut grads.low_rank,
            gradients,
            input_needed.then_some(&mut grads.normed_or_attention),
        )?;
        let group = InputGroup::QueryKeyValue;
        let (weight, factors) = (&self.weights.input_norm, &mut saved.input_factors);
        if input_needed {
            let (low_rank_grad, input_grad) = (&grads.low_rank, &mut grads.normed_or_attention);
            self.adapter.add_dropped_input_grad(ops, rows, group, low_rank_grad, &mut scratch.dropped, input_grad)?;
            self.norm_backward(rows, input, weight, factors, scratch, grads)?;
        } else {
            self.norm(rows, input, weight, &mut scratch.normed, factors)?;
        }
        let input = &scratch.normed;
        self.adapter.backward_input(ops, rows, group, input, &mut scratch.dropped, &grads.low_rank, gradients)
    }

    /// Of the output projection. Leaves the gradients of attention's output and of the residual stream for all rows.
    fn attention_output_backward(
        &self,
        batch: &PackedBatch<O>,
        saved: &LayerActivations<O>,
        low_rank: &O::Buffer,
        scratch: &mut Scratch<O>,
        grads: &mut BackwardScratch<O>,
        gradients: &mut O::Buffer,
    ) -> Result<()> {
        let (ops, rows, group) = (self.ops, self.rows_after_attention(batch), InputGroup::Output);
        let selected = self.selected(batch);
        let input_grad = match selected {
            None => &mut grads.normed_or_attention,
            Some(_) => &mut scratch.activated,
        };
        let output_grads = [OutputGrad { module: LinearModule::Output, grad: &grads.hidden }];
        let (low_rank_grad, dropped) = (&mut grads.low_rank, &mut scratch.dropped);
        self.adapter.backward_output(
            ops,
            rows,
            self.weights,
            group,
            &output_grads,
            low_rank,
            low_rank_grad,
            gradients,
            Some(&mut *input_grad),
        )?;
        self.adapter.add_dropped_input_grad(ops, rows, group, low_rank_grad, dropped, input_grad)?;
        let attention = match selected {
            None => &saved.attention,
            Some(numbers) => {
                self.spread_gradients(batch.rows, numbers, scratch, grads)?;
                self.select_attention(numbers, saved, &mut scratch.activated)?
            }
        };
        self.adapter.backward_input(ops, rows, group, attention, &mut scratch.dropped, &grads.low_rank, gradients)
    }

    /// Takes the gradients of queries and keys through the norms of their heads; uses up `saved.query` and `saved.key`, in which the results are
    /// then. Without such norms, the gradients as they are.
    fn head_norms_backward<'g>(
        &self,
        rows: usize,
        saved: &'g mut LayerActivations<O>,
        [query, key]: [&'g O::Buffer; 2],
    ) -> Result<[&'g O::Buffer; 2]> {
        let (Some(weights), Some(unnormed)) = (&self.weights.head_norms, &saved.unnormed) else {
            return Ok([query, key]);
        };
        let (config, results) = (self.config, [&mut saved.query, &mut saved.key]);
        let heads = [config.num_attention_heads, config.num_key_value_heads].map(|heads| rows * heads);
        let inputs = weights.iter().zip(unnormed).zip([query, key]).zip(heads);
        for (result, (((weight, unnormed), grad), heads)) in results.into_iter().zip(inputs) {
            self.ops.zero((&mut *result).into(), heads * config.head_dim)?;
            let (x, factors) = ((&unnormed.heads).into(), (&unnormed.factors).into());
            let (width, grad) = (config.head_dim, grad.into());
            self.ops.rms_norm_backward(heads, width, x, weight, factors, grad, result.into(), None)?;
        }
        Ok([&saved.query, &saved.key])
    }

    /// Adds the gradient through the norm of `x` to that of the residual stream; `scratch.normed` = what the norm gave.
    fn norm_backward(
        &self,
        rows: usize,
        x: &O::Buffer,
        weight: &O::Buffer,
        factors: &O::Buffer,
        scratch: &mut Scratch<O>,
        grads: &mut BackwardScratch<O>,
    ) -> Result<()> {
        let (width, output_grad) = (self.config.hidden_size, View::from(&grads.normed_or_attention));
        let (input_grad, normed) = (ViewMut::from(&mut grads.hidden), ViewMut::from(&mut scratch.normed));
        let (x, factors) = (x.into(), factors.into());
        self.ops.rms_norm_backward(rows, width, x, weight, factors, output_grad, input_grad, Some(normed))
    }
}
