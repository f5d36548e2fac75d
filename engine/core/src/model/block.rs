//! Forward pass of one block.

use super::activations::{BlockMemory, LayerActivations, Scratch, UnnormedHeads};
use super::batch::PackedBatch;
use super::linear::{InputGroup, LinearModule};
use super::low_rank::BlockAdapter;
use super::weights::LayerWeights;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::ops::{AttentionInputs, GatedForward, LowRankTerm, Ops, Rope, View, ViewMut};

/// What passes through a block need besides activations.
pub(super) struct Block<'a, O: Ops> {
    pub ops: &'a O,
    pub config: &'a ModelConfig,
    pub weights: &'a LayerWeights<O>,
    pub adapter: BlockAdapter<'a, O>,
    /// `[positions, rotated]`: cosines and sines of rope.
    pub angles: &'a O::Buffer,
}

impl<O: Ops> Block<'_, O> {
    /// `out = x + attention(norm x)`, then `+ mlp(norm out)`, of the rows that the block goes on with after attention; everything the backward
    /// pass needs goes to the block's memory.
    pub fn forward(&self, batch: &PackedBatch<O>, memory: BlockMemory<'_, O>, scratch: &mut Scratch<O>) -> Result<()> {
        let BlockMemory { input, saved, low_rank, output } = memory;
        let products = Projections::New(&mut *low_rank);
        self.until_activation(batch, input, saved, products, Kept::Nothing, Activation::Now, scratch)?;
        self.down(self.rows_after_attention(batch), saved, low_rank, scratch, output)
    }

    /// The same numbers once more, as far as the backward pass reads them and they are not there: not the down-projection, and not the products
    /// with A, which are kept.
    pub fn forward_again(
        &self,
        batch: &PackedBatch<O>,
        input: &O::Buffer,
        saved: &mut LayerActivations<O>,
        low_rank: &O::Buffer,
        there: Kept,
        scratch: &mut Scratch<O>,
    ) -> Result<()> {
        let products = Projections::Kept(low_rank);
        self.until_activation(batch, input, saved, products, there, Activation::InBackward, scratch)
    }

    #[expect(clippy::too_many_arguments, reason = "the state of the pass, and how far it goes")]
    fn until_activation(
        &self,
        batch: &PackedBatch<O>,
        input: &O::Buffer,
        saved: &mut LayerActivations<O>,
        mut low_rank: Projections<'_, O>,
        there: Kept,
        activation: Activation,
        scratch: &mut Scratch<O>,
    ) -> Result<()> {
        let (ops, rows, shape) = (self.ops, batch.rows, self.config.attention_shape());
        let outputs = QueryKeyValue {
            query: (&mut saved.query).into(),
            key: (&mut saved.key).into(),
            value: (there != Kept::Attention).then(|| (&mut saved.value).into()),
            unnormed: saved.unnormed.as_mut(),
            factors: &mut saved.input_factors,
        };
        self.query_key_value(rows, &batch.positions, input, outputs, &mut low_rank, scratch)?;
        if there != Kept::Attention {
            let inputs = AttentionInputs {
                query: View::from(&saved.query),
                key: View::from(&saved.key),
                value: View::from(&saved.value),
            };
            let log_sum_exp = ViewMut::from(&mut saved.log_sum_exp);
            ops.attention(shape, &batch.borders, inputs, ViewMut::from(&mut saved.attention), log_sum_exp)?;
            self.selected_attention_output(batch, input, saved, &mut low_rank, scratch)?;
        }
        self.gate_up(self.rows_after_attention(batch), saved, &mut low_rank, activation, scratch)
    }

    /// Queries, keys and values of new rows, after rope.
    pub(super) fn query_key_value(
        &self,
        rows: usize,
        positions: &O::Indices,
        input: &O::Buffer,
        outputs: QueryKeyValue<'_, O>,
        low_rank: &mut Projections<'_, O>,
        scratch: &mut Scratch<O>,
    ) -> Result<()> {
        let (shape, group) = (self.config.attention_shape(), InputGroup::QueryKeyValue);
        let QueryKeyValue { query, key, value, unnormed, factors } = outputs;
        self.norm(rows, input, &self.weights.input_norm, &mut scratch.normed, factors)?;
        let products = low_rank.of(self, rows, group, &scratch.normed, &mut scratch.dropped)?;
        let [query_norm, key_norm] = match (&self.weights.head_norms, unnormed) {
            (Some([query, key]), Some([query_heads, key_heads])) => {
                [Some((query, query_heads)), Some((key, key_heads))]
            }
            _ => [None, None],
        };
        let turned = [
            (LinearModule::Query, query, shape.heads, query_norm),
            (LinearModule::Key, key, shape.key_value_heads, key_norm),
        ];
        for (module, ViewMut { buffer, offset }, heads, norm) in turned {
            let out = ViewMut::at(&mut *buffer, offset);
            let rope = self.config.rope_shape(heads).map(|shape| Rope { shape, angles: self.angles, positions });
            match (norm, rope) {
                (None, None) => self.linear(rows, group, module, &scratch.normed, products, None, out)?,
                (None, Some(rope)) => {
                    let (linear, term) = (self.weights.linear(module), self.low_rank_term(group, module, products));
                    let (x, bias) = (View::from(&scratch.normed), linear.bias.as_ref());
                    self.ops.linear_rope(rows, x, &linear.weight, bias, term, rope, out)?;
                }
                (Some((weight, UnnormedHeads { heads: x, factors })), rope) => {
                    self.linear(rows, group, module, &scratch.normed, products, None, (&mut *x).into())?;
                    let (width, epsilon) = (shape.head_dim, self.config.rms_norm_eps);
                    self.ops.rms_norm(rows * heads, width, (&*x).into(), weight, epsilon, out, factors.into())?;
                    if let Some(Rope { shape, angles, positions }) = rope {
                        self.ops.rope(ViewMut::at(buffer, offset), shape, angles, positions, false)?;
                    }
                }
            }
        }
        match value {
            Some(value) => self.linear(rows, group, LinearModule::Value, &scratch.normed, products, None, value),
            None => Ok(()),
        }
    }

    /// `middle` = the residual stream after attention: `input` and what the output projection makes of `attention`.
    pub(super) fn attention_output(
        &self,
        rows: usize,
        attention: &O::Buffer,
        input: &O::Buffer,
        middle: &mut O::Buffer,
        low_rank: &mut Projections<'_, O>,
        dropped: &mut Option<O::Buffer>,
    ) -> Result<()> {
        let (group, module) = (InputGroup::Output, LinearModule::Output);
        let products = low_rank.of(self, rows, group, attention, dropped)?;
        self.linear(rows, group, module, attention, products, Some(input), middle.into())
    }

    /// The inputs of the gated activation, and what it makes of them, in `scratch.activated`, where it is asked for.
    pub(super) fn gate_up(
        &self,
        rows: usize,
        saved: &mut LayerActivations<O>,
        low_rank: &mut Projections<'_, O>,
        activation: Activation,
        scratch: &mut Scratch<O>,
    ) -> Result<()> {
        let (group, factors) = (InputGroup::GateUp, &mut saved.middle_factors);
        self.norm(rows, &saved.middle, &self.weights.post_attention_norm, &mut scratch.normed, factors)?;
        let products = low_rank.of(self, rows, group, &scratch.normed, &mut scratch.dropped)?;
        self.linear(rows, group, LinearModule::Gate, &scratch.normed, products, None, (&mut saved.gate).into())?;
        let module = LinearModule::Up;
        if activation == Activation::InBackward {
            return self.linear(rows, group, module, &scratch.normed, products, None, (&mut saved.up).into());
        }
        let (linear, low_rank) = (self.weights.linear(module), self.low_rank_term(group, module, products));
        self.ops.gated_forward(GatedForward {
            rows,
            x: (&scratch.normed).into(),
            weight: &linear.weight,
            bias: linear.bias.as_ref(),
            low_rank,
            gate: (&saved.gate).into(),
            up: (&mut saved.up).into(),
            activated: (&mut scratch.activated).into(),
        })
    }

    /// The down-projection of what [`Self::gate_up`] has activated.
    pub(super) fn down(
        &self,
        rows: usize,
        saved: &LayerActivations<O>,
        low_rank: &mut O::Buffer,
        scratch: &mut Scratch<O>,
        output: &mut O::Buffer,
    ) -> Result<()> {
        self.adapter.project(self.ops, rows, InputGroup::Down, &scratch.activated, &mut scratch.dropped, low_rank)?;
        let (module, residual) = (LinearModule::Down, Some(&saved.middle));
        self.linear(rows, InputGroup::Down, module, &scratch.activated, low_rank, residual, output.into())
    }

    /// `normed` = RMSNorm of `x`, `factors` its reciprocal RMS.
    pub(super) fn norm(
        &self,
        rows: usize,
        x: &O::Buffer,
        weight: &O::Buffer,
        normed: &mut O::Buffer,
        factors: &mut O::Buffer,
    ) -> Result<()> {
        let (width, epsilon) = (self.config.hidden_size, self.config.rms_norm_eps);
        self.ops.rms_norm(rows, width, x.into(), weight, epsilon, normed.into(), factors.into())
    }

    /// What a layer's low-rank half adds to its output.
    fn low_rank_term<'a>(
        &'a self,
        group: InputGroup,
        module: LinearModule,
        low_rank: &'a O::Buffer,
    ) -> Option<LowRankTerm<'a, O::Buffer>> {
        let adapter = BlockAdapter { adapter: self.adapter.adapter, layer: self.adapter.layer, dropout: None };
        adapter.output_term(group, module, low_rank)
    }

    #[expect(clippy::too_many_arguments, reason = "one linear layer with everything it adds")]
    fn linear(
        &self,
        rows: usize,
        group: InputGroup,
        module: LinearModule,
        input: &O::Buffer,
        low_rank: &O::Buffer,
        residual: Option<&O::Buffer>,
        out: ViewMut<'_, O::Buffer>,
    ) -> Result<()> {
        let (linear, term) = (self.weights.linear(module), self.low_rank_term(group, module, low_rank));
        let residual = residual.map(View::from);
        self.ops.linear_forward(rows, input.into(), &linear.weight, linear.bias.as_ref(), term, residual, out)
    }
}

/// Where the first linear layers of a block write.
pub(super) struct QueryKeyValue<'a, O: Ops> {
    pub query: ViewMut<'a, O::Buffer>,
    pub key: ViewMut<'a, O::Buffer>,
    /// None: they are there.
    pub value: Option<ViewMut<'a, O::Buffer>>,
    /// Queries and keys before the norm of their heads, where the architecture has it.
    pub unnormed: Option<&'a mut [UnnormedHeads<O>; 2]>,
    /// `[rows]`: reciprocal RMS of the input.
    pub factors: &'a mut O::Buffer,
}

/// Whether the gated activation is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activation {
    Now,
    /// Not here: [`Ops::gated_backward`] does.
    InBackward,
}

/// What of a block's forward pass is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Nothing,
    /// The products with A.
    Products,
    /// These, the values, attention's output and the residual stream after it.
    Attention,
}

/// The products with A of a block: to be made, or there already.
pub(super) enum Projections<'a, O: Ops> {
    New(&'a mut O::Buffer),
    Kept(&'a O::Buffer),
}

impl<O: Ops> Projections<'_, O> {
    /// Those of a group, whose input is given.
    fn of(
        &mut self,
        block: &Block<'_, O>,
        rows: usize,
        group: InputGroup,
        input: &O::Buffer,
        dropped: &mut Option<O::Buffer>,
    ) -> Result<&O::Buffer> {
        match self {
            Self::New(low_rank) => {
                block.adapter.project(block.ops, rows, group, input, dropped, low_rank)?;
                Ok(low_rank)
            }
            Self::Kept(low_rank) => Ok(low_rank),
        }
    }
}
