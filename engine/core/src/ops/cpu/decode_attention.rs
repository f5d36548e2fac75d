//! Attention of one query position over a cache.

use std::ops::Range;

use super::decode_cache::KvCache;
use super::decode_math::{add_weighted_rows, softmax};
use super::decode_rows::multiply_f32_rows;

/// Scores of one query head; reused from call to call.
#[derive(Default)]
pub(super) struct AttentionScratch {
    scores: Vec<f32>,
}

/// softmax(q · K / √head_dim) · V over these positions of one key-value head, into `out [head_dim]`. `query`: rotated, of the last of the positions;
/// `slope`: ALiBi's, or 0.
#[expect(clippy::too_many_arguments, reason = "one head with all it reads")]
pub(super) fn attend_head(
    cache: &KvCache,
    layer: usize,
    key_value_head: usize,
    positions: Range<usize>,
    query: &[f32],
    slope: f32,
    scratch: &mut AttentionScratch,
    out: &mut [f32],
) {
    let scale = 1.0 / (query.len() as f32).sqrt();
    scratch.scores.resize(positions.len(), 0.0);
    let mut start = 0;
    for (keys, _) in cache.head_blocks(layer, key_value_head, positions.clone()) {
        let count = keys.len() / query.len();
        multiply_f32_rows(keys, query, &mut scratch.scores[start..start + count]);
        start += count;
    }
    scratch.scores.iter_mut().for_each(|score| *score *= scale);
    if slope > 0.0 {
        for (distance, score) in scratch.scores.iter_mut().rev().enumerate() {
            *score -= slope * distance as f32;
        }
    }
    softmax(&mut scratch.scores);
    out.fill(0.0);
    let mut scores = scratch.scores.as_slice();
    for (_, values) in cache.head_blocks(layer, key_value_head, positions) {
        let (block, later) = scores.split_at(values.len() / query.len());
        add_weighted_rows(out, block, values);
        scores = later;
    }
}
