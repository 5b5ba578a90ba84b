//! One forward pass over a batch of rows, each some tokens of a sequence.
//!
//! Matrix products take all tokens of the pass together; everything else goes token by token. No token's numbers
//! depend on another sequence or on how its own was cut into passes, so neither do the bits.

use crate::attention::attend;
use crate::kv::{BlockPool, Sequence, BLOCK_TOKENS};
use crate::model::Model;
use crate::ops::{add, rms_norm, rotate, swiglu};
use crate::threads::{self, for_parts, Shared};

/// Fewer tokens than this are normed, added and so on faster by one thread than by several.
const TOKENS_APART: usize = 8;

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
pub fn forward(model: &Model, pool: &BlockPool, rows: &mut [Row], scratch: &mut Scratch, states: &mut Vec<f32>) {
    let config = &model.config;
    let shape = &config.attention;
    let tokens: usize = rows.iter().map(|row| row.ids.len()).sum();
    let (hidden, head_dim) = (config.hidden, shape.head_dim);
    let qkv_size = (shape.heads + 2 * shape.kv_heads) * head_dim;
    let Scratch { x, normed, wide, narrow, product, scores, quantized } = scratch;
    x.resize(tokens * hidden, 0.0);
    normed.resize(tokens * hidden, 0.0);
    product.resize(tokens * hidden, 0.0);
    let context = config.context.next_multiple_of(BLOCK_TOKENS);
    scores.resize(threads::count() * context, 0.0);
    let places = places(rows);

    let ids = rows.iter().flat_map(|row| row.ids);
    for (&id, out) in ids.zip(x.chunks_exact_mut(hidden)) {
        model.embed(id as usize, out);
    }
    for (index, layer) in model.layers.iter().enumerate() {
        norm_rows(x, &layer.input_norm, config.epsilon, normed);
        wide.resize(tokens * qkv_size, 0.0);
        layer.qkv.as_ref().unwrap().run(normed, tokens, quantized, wide);
        let shared = Shared::new(wide);
        for_parts(tokens, TOKENS_APART, |_, part| {
            for (token, place) in part.clone().zip(&places[part]) {
                let qkv = unsafe { shared.part(token * qkv_size..(token + 1) * qkv_size) };
                store(model, pool, rows[place.row].sequence, index, place.position, qkv);
            }
        });
        narrow.resize(tokens * shape.heads * head_dim, 0.0);
        let (out, scores) = (Shared::new(narrow), Shared::new(scores));
        for_parts(tokens * shape.heads, 1, |thread, part| {
            let scores = unsafe { scores.part(thread * context..(thread + 1) * context) };
            for unit in part {
                let (token, head) = (unit / shape.heads, unit % shape.heads);
                let Place { row, position } = places[token];
                let query = &wide[token * qkv_size + head * head_dim..][..head_dim];
                let out = unsafe { out.part(unit * head_dim..(unit + 1) * head_dim) };
                attend(pool, rows[row].sequence, shape, index, head, position, query, scores, out);
            }
        });
        layer.output.as_ref().unwrap().run(narrow, tokens, quantized, product);
        add_rows(x, product, hidden);

        norm_rows(x, &layer.post_attention_norm, config.epsilon, normed);
        let intermediate = config.intermediate;
        wide.resize(tokens * 2 * intermediate, 0.0);
        layer.gate_up.as_ref().unwrap().run(normed, tokens, quantized, wide);
        narrow.resize(tokens * intermediate, 0.0);
        let out = Shared::new(narrow);
        for_parts(tokens, TOKENS_APART, |_, part| {
            for token in part {
                let out = unsafe { out.part(token * intermediate..(token + 1) * intermediate) };
                swiglu(&wide[token * 2 * intermediate..][..2 * intermediate], out);
            }
        });
        layer.down.as_ref().unwrap().run(narrow, tokens, quantized, product);
        add_rows(x, product, hidden);
    }
    states.resize(tokens * hidden, 0.0);
    norm_rows(x, &model.final_norm, config.epsilon, states);
    for row in rows {
        row.sequence.length = row.start + row.ids.len();
    }
}

/// Where a token of the pass belongs.
struct Place {
    row: usize,
    position: usize,
}

fn places(rows: &[Row]) -> Vec<Place> {
    let tokens =
        |(row, it): (usize, &Row)| (it.start..it.start + it.ids.len()).map(move |position| Place { row, position });
    rows.iter().enumerate().flat_map(tokens).collect()
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
    let hidden = weight.len();
    let out = Shared::new(out);
    for_parts(x.len() / hidden, TOKENS_APART, |_, part| {
        for token in part {
            let at = token * hidden..(token + 1) * hidden;
            rms_norm(&x[at.clone()], weight, epsilon, unsafe { out.part(at) });
        }
    });
}

fn add_rows(x: &mut [f32], y: &[f32], hidden: usize) {
    let shared = Shared::new(x);
    for_parts(y.len() / hidden, TOKENS_APART, |_, part| {
        let at = part.start * hidden..part.end * hidden;
        add(unsafe { shared.part(at.clone()) }, &y[at]);
    });
}

/// Turns queries and keys of one token to its position, and puts its keys and values into the cache.
fn store(model: &Model, pool: &BlockPool, sequence: &Sequence, layer: usize, position: usize, qkv: &mut [f32]) {
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
            let slot = unsafe { pool.token_mut(block, layer, kind, kv_head, position % BLOCK_TOKENS) };
            slot.copy_from_slice(&qkv[at..at + shape.head_dim]);
        }
    }
}
