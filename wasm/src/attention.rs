//! Attention of one query token over a sequence's cached keys and values: scores, softmax, weighted sum, each in the
//! order of the tokens. Nothing depends on how the tokens came into the cache or what else is in the pass.

use std::arch::wasm32::*;

use crate::kv::{BlockPool, Sequence, BLOCK_TOKENS};
use crate::lanes::{exp, sum4};

/// What all heads of a layer have in common. `head_dim` is a multiple of 4.
pub struct AttentionShape {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Tokens that a query looks back on, itself included; `usize::MAX` for all.
    pub window: usize,
}

/// `query` and `out` are `[head_dim]` of one head; `position` is the query's token, already in the cache.
/// `scores` is scratch of a multiple of 16 floats, more than `position`; it holds the attention weights afterwards.
#[allow(clippy::too_many_arguments)]
pub fn attend(
    pool: &BlockPool,
    sequence: &Sequence,
    shape: &AttentionShape,
    layer: usize,
    head: usize,
    position: usize,
    query: &[f32],
    scores: &mut [f32],
    out: &mut [f32],
) {
    let kv_head = head * shape.kv_heads / shape.heads;
    let first = (position + 1).saturating_sub(shape.window);
    let blocks = first / BLOCK_TOKENS..=position / BLOCK_TOKENS;
    let scale = 1.0 / (shape.head_dim as f32).sqrt();

    // Whole blocks: what lies beyond the query or before the window is computed and then left out.
    for block in blocks.clone() {
        let keys = pool.head(sequence.blocks[block], layer, 0, kv_head);
        let scores = &mut scores[block * BLOCK_TOKENS..][..BLOCK_TOKENS];
        for (keys, scores) in keys.chunks_exact(4 * shape.head_dim).zip(scores.chunks_exact_mut(4)) {
            unsafe { v128_store(scores.as_mut_ptr().cast(), f32x4_mul(dot4(query, keys), f32x4_splat(scale))) };
        }
    }
    let scores = &mut scores[blocks.start() * BLOCK_TOKENS..][..(blocks.end() + 1 - blocks.start()) * BLOCK_TOKENS];
    let base = blocks.start() * BLOCK_TOKENS;
    scores[..first - base].fill(f32::NEG_INFINITY);
    scores[position + 1 - base..].fill(f32::NEG_INFINITY);
    softmax(scores);

    out.fill(0.0);
    for (block, weights) in blocks.zip(scores.chunks_exact(BLOCK_TOKENS)) {
        let values = pool.head(sequence.blocks[block], layer, 1, kv_head);
        // A block may hold old tokens beyond the query, or before the window: their weight is 0, their values finite.
        for (weights, values) in weights.chunks_exact(4).zip(values.chunks_exact(4 * shape.head_dim)) {
            add_weighted4(out, weights, values);
        }
    }
}

/// Products of `query` with four rows of keys, one after the other in memory.
fn dot4(query: &[f32], keys: &[f32]) -> v128 {
    let dim = query.len();
    let mut sums = [f32x4_splat(0.0); 4];
    for i in (0..dim).step_by(4) {
        unsafe {
            let q = v128_load(query.as_ptr().add(i).cast());
            for (r, sum) in sums.iter_mut().enumerate() {
                let k = v128_load(keys.as_ptr().add(r * dim + i).cast());
                *sum = f32x4_add(*sum, f32x4_mul(q, k));
            }
        }
    }
    f32x4(sum4(sums[0]), sum4(sums[1]), sum4(sums[2]), sum4(sums[3]))
}

/// `out += weights[0] * values[0] + ...`, four rows, added in their order.
fn add_weighted4(out: &mut [f32], weights: &[f32], values: &[f32]) {
    let dim = out.len();
    let weights: [v128; 4] = std::array::from_fn(|r| f32x4_splat(weights[r]));
    for i in (0..dim).step_by(4) {
        unsafe {
            let to: *mut v128 = out.as_mut_ptr().add(i).cast();
            let mut sum = v128_load(to);
            for (r, &weight) in weights.iter().enumerate() {
                let v = v128_load(values.as_ptr().add(r * dim + i).cast());
                sum = f32x4_add(sum, f32x4_mul(weight, v));
            }
            v128_store(to, sum);
        }
    }
}

/// Softmax in place; a multiple of 4 values, `-inf` ones become 0. The sum is by lanes, which begin at a block's first
/// token: the same whatever lies behind the query.
fn softmax(scores: &mut [f32]) {
    let max = scores.iter().fold(f32::NEG_INFINITY, |max, &score| max.max(score));
    let mut sum = f32x4_splat(0.0);
    for four in scores.chunks_exact_mut(4) {
        unsafe {
            let to: *mut v128 = four.as_mut_ptr().cast();
            let powers = exp(f32x4_sub(v128_load(to), f32x4_splat(max)));
            sum = f32x4_add(sum, powers);
            v128_store(to, powers);
        }
    }
    let norm = 1.0 / sum4(sum);
    for score in scores {
        *score *= norm;
    }
}
