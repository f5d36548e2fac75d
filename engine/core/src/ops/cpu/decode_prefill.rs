//! Many tokens of one sequence through the decoder: weights dequantized to f32 one at a time, exact f32 products.

use std::cell::RefCell;

use gemm::Parallelism;

use super::decode::CpuDecoder;
use super::decode_attention::{AttentionScratch, attend_head};
use super::decode_cache::KvCache;
use super::decode_math::{add_scaled, rms_norm, silu_multiply};
use super::decode_model::{DecodeAdapter, DecodeLoraPair, DecodeModel};
use super::pool::{Shards, ThreadPool};
use crate::error::{EngineError, Result};
use crate::model::LinearModule;
use crate::ops::seen_positions;
use crate::quant::dequantize_rows;
use crate::tensor::HostTensor;

/// Rows of a weight that are dequantized and multiplied as one piece of work: in f32 they fit a core's own cache.
const PIECE_ROWS: usize = 96;

thread_local! {
    /// One piece's weight in f32.
    static WEIGHT: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Buffers of one chunk's pass, `[tokens, width]` each, and the dequantized weight.
#[derive(Default)]
struct ChunkScratch {
    normed: Vec<f32>,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    attention: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    projected: Vec<f32>,
    low_rank: Vec<f32>,
    head: Vec<f32>,
}

impl CpuDecoder {
    /// Runs `ids` at the cache's next positions and stores their keys and values. Returns the hidden states after the final norm,
    /// `[ids.len(), hidden_size]`. Errors: `INVALID_ARGUMENT` for an id outside the vocabulary.
    pub fn prefill(
        &mut self,
        model: &DecodeModel,
        adapter: Option<&DecodeAdapter>,
        cache: &mut KvCache,
        ids: &[u32],
    ) -> Result<Vec<f32>> {
        let config = &model.config;
        let start = cache.len();
        if start + ids.len() > config.max_position_embeddings {
            return Err(EngineError::internal("a chunk reaches beyond the end of the context"));
        }
        let width = config.hidden_size;
        let epsilon = config.rms_norm_eps as f32;
        let mut hidden = vec![0.0; ids.len() * width];
        for (id, row) in ids.iter().zip(hidden.chunks_exact_mut(width)) {
            model.embed(*id, row)?;
        }
        let pairs = model.frequencies.len();
        let mut angles = vec![0.0; ids.len() * 2 * pairs];
        let place = |offset: usize| offset * 2 * pairs..(offset + 1) * 2 * pairs;
        for offset in 0..ids.len() {
            let (cosines, sines) = angles[place(offset)].split_at_mut(pairs);
            model.rotary_angles(start + offset, cosines, sines);
        }
        let mut scratch = ChunkScratch::default();
        for (index, layer) in model.layers.iter().enumerate() {
            let pair = |linear| adapter.and_then(|adapter| adapter.pair(index, linear));
            let ChunkScratch { normed, query, key, value, attention, gate, up, projected, low_rank, head } =
                &mut scratch;
            let mut product = |pool: &mut ThreadPool, linear: LinearModule, x: &[f32], out: &mut Vec<f32>| {
                let bias = layer.biases[linear as usize].as_deref();
                multiply_chunk(pool, &layer.linears[linear as usize], bias, pair(linear), x, low_rank, out);
            };
            norm_rows(&hidden, &layer.input_norm, epsilon, normed);
            product(&mut self.pool, LinearModule::Query, normed, query);
            product(&mut self.pool, LinearModule::Key, normed, key);
            product(&mut self.pool, LinearModule::Value, normed, value);
            let turned = [(&mut *query, config.query_size()), (&mut *key, config.key_value_size())];
            for (which, (rows, row_width)) in turned.into_iter().enumerate() {
                for (offset, row) in rows.chunks_exact_mut(row_width).enumerate() {
                    let (cosines, sines) = angles[place(offset)].split_at(pairs);
                    layer.turn_heads(config, which, row, [cosines, sines], head);
                }
            }
            let pairs = key.chunks_exact(config.key_value_size()).zip(value.chunks_exact(config.key_value_size()));
            for (offset, (key, value)) in pairs.enumerate() {
                cache.store(index, start + offset, key, value);
            }
            attend_chunk(&mut self.pool, model, cache, index, query, attention);
            product(&mut self.pool, LinearModule::Output, attention, projected);
            add_scaled(&mut hidden, 1.0, projected);
            norm_rows(&hidden, &layer.post_attention_norm, epsilon, normed);
            product(&mut self.pool, LinearModule::Gate, normed, gate);
            product(&mut self.pool, LinearModule::Up, normed, up);
            silu_multiply(gate, up);
            product(&mut self.pool, LinearModule::Down, gate, projected);
            add_scaled(&mut hidden, 1.0, projected);
        }
        cache.advance(ids.len());
        let mut normed = Vec::new();
        norm_rows(&hidden, &model.final_norm, epsilon, &mut normed);
        Ok(normed)
    }

    /// Raw logits of hidden states `[rows, hidden_size]`, exact f32: `[rows, vocab_size]`.
    pub fn logits(&mut self, model: &DecodeModel, hidden: &[f32], out: &mut Vec<f32>) {
        multiply_chunk(&mut self.pool, &model.head, None, None, hidden, &mut Vec::new(), out);
    }
}

fn norm_rows(x: &[f32], weight: &[f32], epsilon: f32, out: &mut Vec<f32>) {
    out.resize(x.len(), 0.0);
    for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
        rms_norm(x, weight, epsilon, out);
    }
}

fn attend_chunk(
    pool: &mut ThreadPool,
    model: &DecodeModel,
    cache: &KvCache,
    layer: usize,
    query: &[f32],
    out: &mut Vec<f32>,
) {
    let config = &model.config;
    let (heads, head_dim, shape) = (config.num_attention_heads, config.head_dim, config.attention_shape());
    let group = heads / config.num_key_value_heads;
    let start = cache.len();
    out.resize(query.len(), 0.0);
    let shards = Shards::new(out);
    let tokens = query.len() / config.query_size();
    pool.run(tokens * config.num_key_value_heads, &|piece| {
        let (token, key_value_head) = (piece / config.num_key_value_heads, piece % config.num_key_value_heads);
        let mut scores = AttentionScratch::default();
        let seen = seen_positions(start + token, config.sliding_window);
        for head in key_value_head * group..(key_value_head + 1) * group {
            let range =
                token * config.query_size() + head * head_dim..token * config.query_size() + (head + 1) * head_dim;
            // SAFETY: each piece has its own token and heads.
            let out = unsafe { shards.range(range.clone()) };
            let (query, slope) = (&query[range], shape.slope(head) as f32);
            attend_head(cache, layer, key_value_head, seen.clone(), query, slope, &mut scores, out);
        }
    });
}

/// `out [tokens, out_features] = x Wᵀ + bias + scale (x Aᵀ) Bᵀ`. Each piece dequantizes some rows of W and multiplies them at once.
fn multiply_chunk(
    pool: &mut ThreadPool,
    matrix: &HostTensor,
    bias: Option<&[f32]>,
    lora: Option<&DecodeLoraPair>,
    x: &[f32],
    low_rank: &mut Vec<f32>,
    out: &mut Vec<f32>,
) {
    let [out_features, in_features] = [matrix.shape[0], matrix.shape[1]];
    let tokens = x.len() / in_features;
    out.resize(tokens * out_features, 0.0);
    if let Some(lora) = lora {
        low_rank.resize(tokens * lora.r, 0.0);
        let shards = Shards::new(low_rank);
        // SAFETY: nobody else writes to the result.
        unsafe { multiply(x, &lora.a, Product::new(tokens, in_features, lora.r), shards.address(0)) };
    }
    let low_rank = &*low_rank;
    let shards = Shards::new(out);
    pool.run(out_features.div_ceil(PIECE_ROWS), &|piece| {
        let rows = piece * PIECE_ROWS..((piece + 1) * PIECE_ROWS).min(out_features);
        let product = Product { row_stride: out_features, ..Product::new(tokens, in_features, rows.len()) };
        WEIGHT.with_borrow_mut(|weight| {
            weight.resize(rows.len() * in_features, 0.0);
            dequantize_rows(matrix, rows.start, weight);
            // SAFETY: a piece writes its own columns of `out`, which has `tokens` rows of `out_features`.
            unsafe { multiply(x, weight, product, shards.address(rows.start)) };
        });
        if let Some(bias) = bias {
            for first in (0..tokens).map(|token| token * out_features) {
                // SAFETY: as above.
                add_scaled(unsafe { shards.range(first + rows.start..first + rows.end) }, 1.0, &bias[rows.clone()]);
            }
        }
        if let Some(lora) = lora {
            let b = &lora.b_transposed[rows.start..];
            let add = Product {
                sizes: [tokens, lora.r, rows.len()],
                weight_strides: [1, out_features],
                row_stride: out_features,
                factor: lora.scale,
                accumulate: true,
            };
            // SAFETY: as above.
            unsafe { multiply(low_rank, b, add, shards.address(rows.start)) };
        }
    });
}

/// Sizes and form of one product.
struct Product {
    /// Rows of x, width of x, rows of the weight.
    sizes: [usize; 3],
    /// Elements of the weight from one output to the next, and from one input to the next.
    weight_strides: [usize; 2],
    /// Elements from one row of the result to the next.
    row_stride: usize,
    factor: f32,
    accumulate: bool,
}

impl Product {
    fn new(m: usize, k: usize, n: usize) -> Self {
        Self { sizes: [m, k, n], weight_strides: [k, 1], row_stride: n, factor: 1.0, accumulate: false }
    }
}

/// `out [m, n] (+)= factor * x [m, k] · weight [n, k]ᵀ`, on the calling thread.
///
/// # Safety
/// `out` must be valid for `m` rows of `n` elements, `row_stride` apart, and nobody else may use them meanwhile.
unsafe fn multiply(x: &[f32], weight: &[f32], product: Product, out: *mut f32) {
    let Product { sizes: [m, k, n], weight_strides: [to_output, to_input], row_stride, factor, accumulate } = product;
    let last_weight = n.saturating_sub(1) * to_output + k.saturating_sub(1) * to_input;
    assert!(x.len() == m * k && last_weight < weight.len() && row_stride >= n, "sizes of a product do not fit");
    // SAFETY: `x` and `weight` hold what the strides walk over (asserted); `out` by the caller's promise.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            row_stride as isize,
            accumulate,
            x.as_ptr(),
            1,
            k as isize,
            weight.as_ptr(),
            to_output as isize,
            to_input as isize,
            1.0,
            factor,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
