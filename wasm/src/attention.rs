//! Attention of query tokens over a sequence's cached keys and values: scores, softmax, weighted sum, each in the
//! order of the tokens. A query's bits do not depend on which others share the call, on how the tokens came into the
//! cache, or on what else is in the pass.
//!
//! A sequence is attended in segments of fixed length. What a query found so far is its state, f32 `[head_dim + 2]`:
//! the sum of values weighted by `e^(score - max)`, then that max and the sum of the weights, which is 0 at first. States
//! of segments are merged from the first to the last, as in https://arxiv.org/abs/2205.14135.

use std::arch::wasm32::*;

use crate::kv::{BlockPool, Kind, KvType, Sequence, BLOCK_TOKENS};
use crate::lanes::{exp, exp1, sum4};
use crate::{attention_f32, attention_int8};

/// What all heads of a layer have in common. `head_dim` is a multiple of 4.
pub struct AttentionShape {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Tokens that a query looks back on, itself included; `usize::MAX` for all.
    pub window: usize,
}

impl AttentionShape {
    /// The first token that a query at `position` sees.
    pub fn first(&self, position: usize) -> usize {
        (position + 1).saturating_sub(self.window)
    }
}

/// Queries of one call at most.
pub const QUERIES: usize = 32;

/// One head of one token.
#[derive(Clone, Copy)]
pub struct Query {
    /// Whose keys and values it sees.
    pub kv_head: usize,
    /// The token's, already in the cache.
    pub position: usize,
    /// f32 `[head_dim]`
    pub query: *const f32,
    /// f32 `[state_floats]`
    pub state: *mut f32,
    /// Where the attention weights go, f32 `[position + 1]`; null where nobody asked.
    pub weights: *mut f32,
    /// Where weights are asked for: the max of each segment, from this one on.
    pub first_segment: usize,
    pub maxima: *mut f32,
}

impl Query {
    /// Nothing but a state, to be finished.
    pub fn finished(state: *mut f32) -> Self {
        let none = std::ptr::null_mut();
        Query { kv_head: 0, position: 0, query: none, state, weights: none, first_segment: 0, maxima: none }
    }
}

/// Tokens of a segment: a multiple of a block's.
pub const SEGMENT: usize = 512;

/// Floats of a query's state.
pub fn state_floats(head_dim: usize) -> usize {
    head_dim + 2
}

/// Adds what was found in a later segment, `values` f32 `[head_dim]` and its max and sum, to `state`.
pub fn merge(state: &mut [f32], values: &[f32], later_max: f32, later_sum: f32) {
    let (state, end) = state.split_at_mut(values.len());
    if later_sum == 0.0 {
        return;
    }
    if end[1] == 0.0 {
        state.copy_from_slice(values);
        (end[0], end[1]) = (later_max, later_sum);
        return;
    }
    let max = end[0].max(later_max);
    let (a, b) = (exp1(end[0] - max), exp1(later_max - max));
    for (value, other) in state.iter_mut().zip(values) {
        *value = *value * a + other * b;
    }
    (end[0], end[1]) = (max, end[1] * a + later_sum * b);
}

/// Turns a query's state into its output, f32 `[head_dim]`, and its weights into those of all segments.
///
/// # Safety
/// The query's pointers are good.
pub unsafe fn finish(query: &Query, shape: &AttentionShape, out: &mut [f32]) {
    let state = std::slice::from_raw_parts(query.state, state_floats(out.len()));
    let (max, norm) = (state[out.len()], 1.0 / state[out.len() + 1]);
    for (out, value) in out.iter_mut().zip(state) {
        *out = value * norm;
    }
    if query.weights.is_null() {
        return;
    }
    for token in 0..=query.position {
        let weight = query.weights.add(token);
        if token < shape.first(query.position) {
            weight.write(0.0);
        } else {
            let segment = *query.maxima.add(token / SEGMENT - query.first_segment);
            *weight = *weight * exp1(segment - max) * norm;
        }
    }
}

/// Floats between the scores of two queries.
const PADDING: usize = 16;

/// Floats of scratch that `attend` takes.
pub fn scratch_floats(head_dim: usize) -> usize {
    QUERIES * (SEGMENT + PADDING + head_dim + state_floats(head_dim))
}

/// Attends one segment for at most `QUERIES` queries of one sequence, those of one `kv_head` side by side: they read its
/// keys and values together. Blocks are walked one after the other, with all heads of each, as they lie in memory.
///
/// # Safety
/// The queries' pointers are good and their states apart; `scratch` has `scratch_floats`.
pub unsafe fn attend(
    pool: &BlockPool,
    sequence: &Sequence,
    shape: &AttentionShape,
    layer: usize,
    segment: usize,
    queries: &[Query],
    scratch: &mut [f32],
) {
    let dim = shape.head_dim;
    let (inputs, scratch) = scratch.split_at_mut(QUERIES * dim);
    let (sums, scratch) = scratch.split_at_mut(QUERIES * dim);
    let (found, scores) = scratch.split_at_mut(QUERIES * 2);
    let first = queries.iter().map(|query| shape.first(query.position)).min().unwrap().max(segment * SEGMENT);
    let last = queries.iter().map(|query| query.position).max().unwrap().min((segment + 1) * SEGMENT - 1);
    let blocks = first / BLOCK_TOKENS..last / BLOCK_TOKENS + 1;
    // Scores of a query, from the first block on, and a cache line that is not used: rows of a power of two would share
    // a few sets of the cache.
    let length = blocks.len() * BLOCK_TOKENS;
    let stride = length + PADDING;
    assert!(queries.len() <= QUERIES && queries.len() * stride <= scores.len());
    let kv_type = pool.shape.kv_type;
    // Head by head: the first of its queries, how many, and its keys or values in a block.
    let heads = |block: usize, kind: Kind| {
        let mut from = 0;
        queries.chunk_by(|a, b| a.kv_head == b.kv_head).map(move |run| {
            let first = from;
            from += run.len();
            (first, run.len(), pool.part(sequence.blocks[block], layer, kind, run[0].kv_head))
        })
    };

    let mut scales = [0.0; QUERIES];
    for (i, query) in queries.iter().enumerate() {
        let from = std::slice::from_raw_parts(query.query, dim);
        match kv_type {
            KvType::F32 => attention_f32::prepare(from, inputs.as_mut_ptr().add(i * dim)),
            KvType::Int8 => scales[i] = attention_int8::prepare(from, inputs.as_mut_ptr().cast::<i16>().add(i * dim)),
        }
    }
    // Whole blocks: what lies beyond a query or before its window is computed and then left out.
    for (i, block) in blocks.clone().enumerate() {
        for (first, count, keys) in heads(block, Kind::Keys) {
            let to = scores.as_mut_ptr().add(first * stride + i * BLOCK_TOKENS);
            let inputs = inputs.as_ptr();
            match kv_type {
                KvType::F32 => attention_f32::scores(count, inputs.add(first * dim), dim, keys, to, stride),
                KvType::Int8 => {
                    let inputs = inputs.cast::<i16>().add(first * dim);
                    attention_int8::scores(count, inputs, &scales[first..], dim, keys, to, stride)
                }
            }
        }
    }
    let base = blocks.start * BLOCK_TOKENS;
    for ((query, scores), found) in queries.iter().zip(scores.chunks_exact_mut(stride)).zip(found.chunks_exact_mut(2)) {
        let scores = &mut scores[..length];
        let seen =
            shape.first(query.position).clamp(base, base + length) - base..(query.position + 1 - base).min(length);
        if seen.is_empty() {
            scores.fill(0.0);
            found.fill(0.0);
            continue;
        }
        scores[..seen.start].fill(f32::NEG_INFINITY);
        scores[seen.end..].fill(f32::NEG_INFINITY);
        (found[0], found[1]) = exponentials(scores);
        if !query.weights.is_null() {
            query.maxima.add(segment - query.first_segment).write(found[0]);
            for token in seen {
                query.weights.add(base + token).write(scores[token]);
            }
        }
    }
    let sums = &mut sums[..queries.len() * dim];
    sums.fill(0.0);
    for (i, block) in blocks.enumerate() {
        // Beyond the last query lies what another sequence left there.
        let tokens = BLOCK_TOKENS.min(last + 1 - block * BLOCK_TOKENS);
        for (first, count, values) in heads(block, Kind::Values) {
            let weights = scores[first * stride + i * BLOCK_TOKENS..].as_ptr();
            let sums = &mut sums[first * dim..];
            match kv_type {
                KvType::F32 => attention_f32::add_values(count, weights, stride, values, tokens, dim, sums),
                KvType::Int8 => attention_int8::add_values(count, weights, stride, values, tokens, dim, sums),
            }
        }
    }
    for (i, query) in queries.iter().enumerate() {
        let state = std::slice::from_raw_parts_mut(query.state, state_floats(dim));
        merge(state, &sums[i * dim..(i + 1) * dim], found[2 * i], found[2 * i + 1]);
    }
}

/// `e^(score - max)` in place, `-inf` to 0; a multiple of 16 values. Returns the max and the sum, which is by lanes that
/// begin at a block's first token: zeros before and behind change nothing.
fn exponentials(scores: &mut [f32]) -> (f32, f32) {
    let lanes = |four: &[f32]| unsafe { v128_load(four.as_ptr().cast()) };
    let max = scores.chunks_exact(4).fold(f32x4_splat(f32::NEG_INFINITY), |max, four| f32x4_pmax(max, lanes(four)));
    let max = f32x4_pmax(max, i32x4_shuffle::<2, 3, 0, 1>(max, max));
    let max = f32x4_pmax(max, i32x4_shuffle::<1, 0, 3, 2>(max, max));
    let mut sum = f32x4_splat(0.0);
    for four in scores.chunks_exact_mut(4) {
        let powers = exp(f32x4_sub(lanes(four), max));
        sum = f32x4_add(sum, powers);
        unsafe { v128_store(four.as_mut_ptr().cast(), powers) };
    }
    (f32x4_extract_lane::<0>(max), sum4(sum))
}
