//! Attention one element at a time: the definition that `attention.rs` is tested against, bit for bit.

use std::ops::RangeInclusive;

use crate::attention::{merge, state_floats, AttentionShape, SEGMENT};
use crate::attention_int8::I16_MAX;
use crate::kv::{BlockPool, Kind, KvType, Sequence, BLOCK_TOKENS};
use crate::lanes::exp1;

/// Attends one head of the token at `position`, f32 `[head_dim]` in and out.
pub fn attend(
    pool: &BlockPool,
    sequence: &Sequence,
    shape: &AttentionShape,
    layer: usize,
    kv_head: usize,
    position: usize,
    query: &[f32],
    out: &mut [f32],
) {
    let dim = out.len();
    let mut state = vec![0.0; state_floats(dim)];
    for segment in shape.first(position) / SEGMENT..=position / SEGMENT {
        let first = shape.first(position).max(segment * SEGMENT);
        let last = position.min((segment + 1) * SEGMENT - 1);
        let (max, sum) = attend_part(pool, sequence, shape, layer, kv_head, first..=last, query, out);
        merge(&mut state, out, max, sum);
    }
    for (out, value) in out.iter_mut().zip(&state) {
        *out = value * (1.0 / state[dim + 1]);
    }
}

/// Attends some tokens. `out` is the sum of values weighted by `e^(score - max)`; returns that max and the weights' sum.
#[allow(clippy::too_many_arguments)]
fn attend_part(
    pool: &BlockPool,
    sequence: &Sequence,
    shape: &AttentionShape,
    layer: usize,
    kv_head: usize,
    seen: RangeInclusive<usize>,
    query: &[f32],
    out: &mut [f32],
) -> (f32, f32) {
    let dim = shape.head_dim;
    let (first, position, root) = (*seen.start(), *seen.end(), (dim as f32).sqrt());
    let read = |kind: Kind, token: usize, d: usize| {
        let part = pool.part(sequence.blocks[token / BLOCK_TOKENS], layer, kind, kv_head);
        pool.shape.read(part, kind, token % BLOCK_TOKENS, d)
    };
    let int8 = pool.shape.kv_type == KvType::Int8;
    let amax = |values: &[f32]| values.iter().fold(0.0f32, |max, v| max.max(v.abs()));
    let rounded = |value: f32, amax: f32| {
        let factor = I16_MAX / amax;
        (value * if factor.is_finite() { factor } else { 0.0 }).round_ties_even() as i16 as i32
    };

    let query_max = amax(query);
    let scores: Vec<f32> = (first..=position)
        .map(|token| {
            if int8 {
                let key = |d| read(Kind::Keys, token, d).0 as i32;
                let sum: i32 = (0..dim).map(|d| rounded(query[d], query_max) * key(d)).sum();
                sum as f32 * read(Kind::Keys, token, 0).1 * (query_max / I16_MAX / root)
            } else {
                (0..dim).fold(0.0, |sum, d| sum + query[d] * (1.0 / root) * read(Kind::Keys, token, d).0)
            }
        })
        .collect();
    let max = scores.iter().fold(f32::NEG_INFINITY, |max, &score| max.max(score));
    let mut lanes = [0.0; 4];
    let mut weights = vec![0.0; (position / BLOCK_TOKENS + 1) * BLOCK_TOKENS];
    for (i, score) in scores.iter().enumerate() {
        weights[first + i] = exp1(score - max);
        lanes[(first + i) % 4] += weights[first + i];
    }

    out.fill(0.0);
    for block in first / BLOCK_TOKENS..=position / BLOCK_TOKENS {
        let tokens = first.max(block * BLOCK_TOKENS)..(position + 1).min((block + 1) * BLOCK_TOKENS);
        let products: Vec<f32> = tokens.clone().map(|token| weights[token] * read(Kind::Values, token, 0).1).collect();
        let product_max = amax(&products);
        for (d, out) in out.iter_mut().enumerate() {
            let value = |token| read(Kind::Values, token, d).0;
            if int8 {
                let quants = products.iter().map(|&product| rounded(product, product_max));
                let sum: i32 = tokens.clone().zip(quants).map(|(token, weight)| weight * value(token) as i32).sum();
                *out += sum as f32 * (product_max / I16_MAX);
            } else {
                for token in tokens.clone() {
                    *out += weights[token] * value(token);
                }
            }
        }
    }
    (max, (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]))
}
