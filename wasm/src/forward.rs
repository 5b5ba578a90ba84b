//! One forward pass over a batch of rows, each some tokens of a sequence.
//!
//! Matrix products take all tokens of the pass together; everything else goes token by token. No token's numbers
//! depend on another sequence or on how its own was cut into passes, so neither do the bits.

use crate::attention::attend;
use crate::kv::{BlockPool, Sequence, BLOCK_TOKENS};
use crate::model::Model;
use crate::ops::{add, rms_norm, rotate, swiglu};

/// Some tokens of one sequence, which has room for them from `start` on.
pub struct Row<'a> {
    pub sequence: &'a mut Sequence,
    pub start: usize,
    pub ids: &'a [u32],
}

/// Buffers of a pass, kept for the next one.
#[derive(Default)]
pub struct Scratch {
    /// f32 `[tokens, hidden]`: the residual stream.
    x: Vec<f32>,
    normed: Vec<f32>,
    wide: Vec<f32>,
    narrow: Vec<f32>,
    product: Vec<f32>,
    scores: Vec<f32>,
    quantized: Vec<u8>,
}

/// Runs all layers. The last hidden states, after the final norm, are f32 `[tokens, hidden]` in `states`.
pub fn forward(model: &Model, pool: &mut BlockPool, rows: &mut [Row], scratch: &mut Scratch, states: &mut Vec<f32>) {
    let config = &model.config;
    let shape = &config.attention;
    let tokens: usize = rows.iter().map(|row| row.ids.len()).sum();
    let (hidden, head_dim) = (config.hidden, shape.head_dim);
    let qkv_size = (shape.heads + 2 * shape.kv_heads) * head_dim;
    let Scratch { x, normed, wide, narrow, product, scores, quantized } = scratch;
    x.resize(tokens * hidden, 0.0);
    normed.resize(tokens * hidden, 0.0);
    product.resize(tokens * hidden, 0.0);
    scores.resize(config.context.next_multiple_of(BLOCK_TOKENS), 0.0);

    let embedding = model.embedding.as_ref().unwrap();
    let ids = rows.iter().flat_map(|row| row.ids);
    for (&id, out) in ids.zip(x.chunks_exact_mut(hidden)) {
        embedding.row(id as usize, out);
    }
    for (index, layer) in model.layers.iter().enumerate() {
        norm_rows(x, &layer.input_norm, config.epsilon, normed);
        wide.resize(tokens * qkv_size, 0.0);
        layer.qkv.as_ref().unwrap().run(normed, tokens, quantized, wide);
        narrow.resize(tokens * shape.heads * head_dim, 0.0);
        let mut at = 0;
        for row in rows.iter() {
            for i in 0..row.ids.len() {
                let qkv = &mut wide[(at + i) * qkv_size..][..qkv_size];
                store(model, pool, row.sequence, index, row.start + i, qkv);
            }
            for i in 0..row.ids.len() {
                let qkv = &wide[(at + i) * qkv_size..][..qkv_size];
                let out = &mut narrow[(at + i) * shape.heads * head_dim..][..shape.heads * head_dim];
                for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
                    let query = &qkv[head * head_dim..][..head_dim];
                    attend(pool, row.sequence, shape, index, head, row.start + i, query, scores, out);
                }
            }
            at += row.ids.len();
        }
        layer.output.as_ref().unwrap().run(narrow, tokens, quantized, product);
        add(x, product);

        norm_rows(x, &layer.post_attention_norm, config.epsilon, normed);
        wide.resize(tokens * 2 * config.intermediate, 0.0);
        layer.gate_up.as_ref().unwrap().run(normed, tokens, quantized, wide);
        narrow.resize(tokens * config.intermediate, 0.0);
        for (gate_up, out) in
            wide.chunks_exact(2 * config.intermediate).zip(narrow.chunks_exact_mut(config.intermediate))
        {
            swiglu(gate_up, out);
        }
        layer.down.as_ref().unwrap().run(narrow, tokens, quantized, product);
        add(x, product);
    }
    states.resize(tokens * hidden, 0.0);
    norm_rows(x, &model.final_norm, config.epsilon, states);
    for row in rows {
        row.sequence.length = row.start + row.ids.len();
    }
}

/// f32 `[rows, vocab]` of f32 `[rows, hidden]` states.
pub fn logits(model: &Model, states: &[f32], scratch: &mut Scratch, out: &mut Vec<f32>) {
    let head = model.head.as_ref().or(model.embedding.as_ref()).unwrap();
    let rows = states.len() / model.config.hidden;
    out.resize(rows * model.config.vocab, 0.0);
    if rows > 0 {
        head.run(states, rows, &mut scratch.quantized, out);
    }
}

fn norm_rows(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
        rms_norm(x, weight, epsilon, out);
    }
}

/// Turns queries and keys of one token to its position, and puts its keys and values into the cache.
fn store(model: &Model, pool: &mut BlockPool, sequence: &Sequence, layer: usize, position: usize, qkv: &mut [f32]) {
    let shape = &model.config.attention;
    let half = shape.head_dim / 2;
    let (cos, sin) = (&model.cos[position * half..][..half], &model.sin[position * half..][..half]);
    for head in qkv[..(shape.heads + shape.kv_heads) * shape.head_dim].chunks_exact_mut(shape.head_dim) {
        rotate(head, cos, sin);
    }
    let block = sequence.blocks[position / BLOCK_TOKENS];
    for kind in 0..2 {
        for kv_head in 0..shape.kv_heads {
            let at = (shape.heads + kind * shape.kv_heads + kv_head) * shape.head_dim;
            let slot = pool.token_mut(block, layer, kind, kv_head, position % BLOCK_TOKENS);
            slot.copy_from_slice(&qkv[at..at + shape.head_dim]);
        }
    }
}
