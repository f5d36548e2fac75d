//! One token through the decoder: fused products of stored weights, a handful of parallel sections a layer.

use std::ops::Range;

use super::decode_attention::{AttentionScratch, attend_head};
use super::decode_cache::KvCache;
use super::decode_math::{add_scaled, rms_norm, silu_multiply};
use super::decode_model::{DecodeAdapter, DecodeLayer, DecodeLoraPair, DecodeModel};
use super::decode_rows::{DecodeVector, multiply_f32_rows, multiply_rows, needs_quantized_vector};
use super::pool::{Shards, ThreadPool};
use crate::error::{EngineError, Result};
use crate::model::LinearModule;
use crate::ops::seen_positions;
use crate::tensor::HostTensor;

/// Rows in one piece of work: long enough that taking a piece costs nothing beside it, short enough that threads finish together.
const PIECE_ROWS: usize = 64;
const HEAD_PIECE_ROWS: usize = 512;
/// Seen positions times query heads from which attention is worth sharing among threads.
const SHARED_ATTENTION: usize = 512;

/// Buffers of one token's pass; reused from token to token and shared by all sequences of a device.
#[derive(Default)]
pub(super) struct TokenScratch {
    hidden: Vec<f32>,
    normed: Vec<f32>,
    vector: DecodeVector,
    query_key_value: Vec<f32>,
    attention: Vec<f32>,
    gate_up: Vec<f32>,
    projected: Vec<f32>,
    low_rank: [Vec<f32>; 3],
    cosines: Vec<f32>,
    sines: Vec<f32>,
    head: Vec<f32>,
    scores: AttentionScratch,
}

/// Computes one token after another on one device's threads.
pub struct CpuDecoder {
    pub(super) pool: ThreadPool,
    scratch: TokenScratch,
}

/// Matrices that multiply the same vector, with their adapters and places in one output buffer.
struct Product<'a> {
    matrix: &'a HostTensor,
    bias: Option<&'a [f32]>,
    lora: Option<&'a DecodeLoraPair>,
    output: Range<usize>,
}

impl CpuDecoder {
    /// A decoder that uses `threads` threads.
    pub fn new(threads: usize) -> Self {
        Self { pool: ThreadPool::new(threads), scratch: TokenScratch::default() }
    }

    /// Threads at work.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Runs one token at the cache's next position and stores its keys and values. `logits [vocab_size]` receives the next token's raw logits.
    /// `INVALID_ARGUMENT` for an id outside the vocabulary.
    pub fn decode(
        &mut self,
        model: &DecodeModel,
        adapter: Option<&DecodeAdapter>,
        cache: &mut KvCache,
        id: u32,
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        let Self { pool, scratch } = self;
        let config = &model.config;
        let position = cache.len();
        if position >= config.max_position_embeddings {
            return Err(EngineError::internal("the cache is at the end of the context"));
        }
        scratch.hidden.resize(config.hidden_size, 0.0);
        scratch.normed.resize(config.hidden_size, 0.0);
        scratch.cosines.resize(model.frequencies.len(), 0.0);
        scratch.sines.resize(model.frequencies.len(), 0.0);
        model.embed(id, &mut scratch.hidden)?;
        model.rotary_angles(position, &mut scratch.cosines, &mut scratch.sines);
        for (index, layer) in model.layers.iter().enumerate() {
            let pair = |linear| adapter.and_then(|adapter| adapter.pair(index, linear));
            scratch.attend(pool, model, layer, index, &pair, cache);
            scratch.feed_forward(pool, model, layer, &pair);
        }
        cache.advance(1);
        rms_norm(&scratch.hidden, &model.final_norm, config.rms_norm_eps as f32, &mut scratch.normed);
        output_layer(pool, model, &scratch.normed, &mut scratch.vector, logits);
        Ok(())
    }

    /// The next token's raw logits `[vocab_size]` for one final hidden state `[hidden_size]`, by the same products as [`Self::decode`].
    pub fn last_logits(&mut self, model: &DecodeModel, hidden: &[f32], logits: &mut Vec<f32>) {
        output_layer(&mut self.pool, model, hidden, &mut self.scratch.vector, logits);
    }
}

fn output_layer(
    pool: &mut ThreadPool,
    model: &DecodeModel,
    hidden: &[f32],
    vector: &mut DecodeVector,
    logits: &mut Vec<f32>,
) {
    let vocab_size = model.config.vocab_size;
    vector.assign(hidden, needs_quantized_vector(model.head.stored));
    logits.resize(vocab_size, 0.0);
    let shards = Shards::new(logits);
    let vector = &*vector;
    pool.run(vocab_size.div_ceil(HEAD_PIECE_ROWS), &|piece| {
        let rows = piece * HEAD_PIECE_ROWS..((piece + 1) * HEAD_PIECE_ROWS).min(vocab_size);
        // SAFETY: pieces are disjoint ranges of rows.
        multiply_rows(&model.head, rows.clone(), vector, unsafe { shards.range(rows) });
    });
}

type PairOf<'a, 'b> = &'b dyn Fn(LinearModule) -> Option<&'a DecodeLoraPair>;

impl TokenScratch {
    /// hidden += o_proj(attention(norm(hidden))).
    fn attend(
        &mut self,
        pool: &mut ThreadPool,
        model: &DecodeModel,
        layer: &DecodeLayer,
        index: usize,
        pair: PairOf<'_, '_>,
        cache: &mut KvCache,
    ) {
        let config = &model.config;
        let (query, key_value, head_dim) = (config.query_size(), config.key_value_size(), config.head_dim);
        rms_norm(&self.hidden, &layer.input_norm, config.rms_norm_eps as f32, &mut self.normed);
        let linear = |linear: LinearModule, output| Product {
            matrix: &layer.linears[linear as usize],
            bias: layer.biases[linear as usize].as_deref(),
            lora: pair(linear),
            output,
        };
        let products = [
            linear(LinearModule::Query, 0..query),
            linear(LinearModule::Key, query..query + key_value),
            linear(LinearModule::Value, query + key_value..query + 2 * key_value),
        ];
        multiply(pool, &products, &self.normed, &mut self.vector, &mut self.low_rank, &mut self.query_key_value);
        let (queries, key_values) = self.query_key_value.split_at_mut(query);
        let (keys, values) = key_values.split_at_mut(key_value);
        for (which, heads) in [&mut *queries, &mut *keys].into_iter().enumerate() {
            layer.turn_heads(config, which, heads, [&self.cosines, &self.sines], &mut self.head);
        }
        let position = cache.len();
        cache.store(index, position, keys, values);
        self.attention.resize(query, 0.0);
        let cache = &*cache;
        let group = config.num_attention_heads / config.num_key_value_heads;
        let queries = &*queries;
        let seen = seen_positions(position, config.sliding_window);
        let shape = config.attention_shape();
        let slope = |head: usize| shape.slope(head) as f32;
        if seen.len() * config.num_attention_heads < SHARED_ATTENTION {
            for (head, out) in self.attention.chunks_exact_mut(head_dim).enumerate() {
                let query = &queries[head * head_dim..(head + 1) * head_dim];
                attend_head(cache, index, head / group, seen.clone(), query, slope(head), &mut self.scores, out);
            }
        } else {
            let shards = Shards::new(&mut self.attention);
            pool.run(config.num_attention_heads, &|head| {
                let range = head * head_dim..(head + 1) * head_dim;
                let mut scores = AttentionScratch::default();
                // SAFETY: each piece is one head's part.
                let out = unsafe { shards.range(range.clone()) };
                let query = &queries[range];
                attend_head(cache, index, head / group, seen.clone(), query, slope(head), &mut scores, out);
            });
        }
        let products = [linear(LinearModule::Output, 0..config.hidden_size)];
        multiply(pool, &products, &self.attention, &mut self.vector, &mut self.low_rank, &mut self.projected);
        add_scaled(&mut self.hidden, 1.0, &self.projected);
    }

    /// hidden += down(silu(gate(norm(hidden))) * up(norm(hidden))).
    fn feed_forward(&mut self, pool: &mut ThreadPool, model: &DecodeModel, layer: &DecodeLayer, pair: PairOf<'_, '_>) {
        let config = &model.config;
        let inner = config.intermediate_size;
        rms_norm(&self.hidden, &layer.post_attention_norm, config.rms_norm_eps as f32, &mut self.normed);
        let linear = |linear: LinearModule, output| Product {
            matrix: &layer.linears[linear as usize],
            bias: layer.biases[linear as usize].as_deref(),
            lora: pair(linear),
            output,
        };
        let products = [linear(LinearModule::Gate, 0..inner), linear(LinearModule::Up, inner..2 * inner)];
        multiply(pool, &products, &self.normed, &mut self.vector, &mut self.low_rank, &mut self.gate_up);
        let (gate, up) = self.gate_up.split_at_mut(inner);
        silu_multiply(gate, up);
        let products = [linear(LinearModule::Down, 0..config.hidden_size)];
        multiply(pool, &products, gate, &mut self.vector, &mut self.low_rank, &mut self.projected);
        add_scaled(&mut self.hidden, 1.0, &self.projected);
    }
}

/// All products of one vector, in one parallel section: `output = W x + bias + scale B (A x)`.
fn multiply(
    pool: &mut ThreadPool,
    products: &[Product<'_>],
    x: &[f32],
    vector: &mut DecodeVector,
    low_rank: &mut [Vec<f32>; 3],
    output: &mut Vec<f32>,
) {
    vector.assign(x, products.iter().any(|product| needs_quantized_vector(product.matrix.stored)));
    // A has r rows only: not worth a section of its own.
    for (product, low_rank) in products.iter().zip(low_rank.iter_mut()) {
        if let Some(lora) = product.lora {
            low_rank.resize(lora.r, 0.0);
            multiply_f32_rows(&lora.a, x, low_rank);
        }
    }
    output.resize(products.last().map_or(0, |product| product.output.end), 0.0);
    let pieces_of = |product: &Product<'_>| product.output.len().div_ceil(PIECE_ROWS);
    let shards = Shards::new(output);
    let (vector, low_rank) = (&*vector, &*low_rank);
    pool.run(products.iter().map(pieces_of).sum(), &|mut piece| {
        for (product, low_rank) in products.iter().zip(low_rank) {
            let pieces = pieces_of(product);
            if piece >= pieces {
                piece -= pieces;
                continue;
            }
            let rows = piece * PIECE_ROWS..((piece + 1) * PIECE_ROWS).min(product.output.len());
            // SAFETY: pieces are disjoint ranges of rows of disjoint outputs.
            let out = unsafe { shards.range(product.output.start + rows.start..product.output.start + rows.end) };
            multiply_rows(product.matrix, rows.clone(), vector, out);
            if let Some(bias) = product.bias {
                add_scaled(out, 1.0, &bias[rows.clone()]);
            }
            if let Some(lora) = product.lora {
                let columns = lora.b_transposed.chunks_exact(product.output.len());
                for (column, h) in columns.zip(low_rank) {
                    add_scaled(out, lora.scale * h, &column[rows.clone()]);
                }
            }
            return;
        }
    });
}
