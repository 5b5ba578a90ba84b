//! One forward pass over a batch of rows, each some tokens of a sequence.
//!
//! Matrix products take all tokens of the pass together; everything else goes token by token. No token's numbers
//! depend on another sequence or on how its own was cut into passes, so neither do the bits.

use crate::attend_tiles::{attend_tiles, reserve_scratch, tiles};
use crate::attention::AttentionShape;
use crate::kv::{BlockPool, Kind, Sequence, BLOCK_TOKENS};
use crate::layout::BLOCK;
use crate::linear::Linear;
use crate::memory::reserve;
use crate::model::{Config, Model};
use crate::ops::{add, rms_norm, rotate, swiglu};
use crate::row::Row;
use crate::threads::{for_parts, Shared};

/// Fewer tokens than this are normed, added and so on faster by one thread than by several.
const TOKENS_APART: usize = 8;

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

impl Scratch {
    /// Makes room for a pass over `rows`, which looks into layers as `watch` says. Returns false when the memory is not
    /// there.
    pub fn reserve(&mut self, config: &Config, rows: &[Row], watch: &mut Watch) -> bool {
        let shape = &config.attention;
        let tokens: usize = rows.iter().map(|row| row.ids.len()).sum();
        let tiles = tiles(rows);
        let [attended, qkv] = [shape.heads, shape.heads + 2 * shape.kv_heads].map(|heads| heads * shape.head_dim);
        let deepest = config.hidden.max(attended).max(config.intermediate);
        reserve(&mut self.x, tokens * config.hidden)
            && reserve(&mut self.normed, tokens * config.hidden)
            && reserve(&mut self.product, tokens * config.hidden)
            && reserve(&mut self.wide, tokens * qkv.max(2 * config.intermediate))
            && reserve(&mut self.narrow, tokens * attended.max(config.intermediate))
            && reserve(&mut self.quantized, Linear::scratch_bytes(tokens, deepest))
            && reserve_scratch(&mut self.scores, &tiles, shape, false)
            && (watch.layers.is_empty()
                || reserve_scratch(&mut self.scores, &tiles, shape, true)
                    && reserve(&mut watch.qkv, watch.layers.len() * tokens * qkv)
                    && reserve(&mut watch.weights, watch.layers.len() * tokens * shape.heads * longest(rows)))
    }
}

fn longest(rows: &[Row]) -> usize {
    rows.iter().map(|row| row.start + row.ids.len()).max().unwrap_or(0)
}

/// Layers to look into, and what a pass left there.
#[derive(Default)]
pub struct Watch {
    pub layers: Vec<usize>,
    /// f32 `[layers, tokens, heads + 2 * kv_heads, head_dim]`: queries and keys, turned to their position, and values.
    pub qkv: Vec<f32>,
    /// f32 `[layers, tokens, heads, length]`: attention weights, `length` that of the longest sequence; 0 beyond a token.
    pub weights: Vec<f32>,
}

/// Runs all layers; `scratch`, `watch` and `states` have room for it. The last hidden states, after the final norm, are f32 `[tokens, hidden]` in `states`.
pub fn forward(
    model: &Model,
    pool: &BlockPool,
    rows: &mut [Row],
    scratch: &mut Scratch,
    states: &mut Vec<f32>,
    watch: &mut Watch,
) {
    let config = &model.config;
    let shape = &config.attention;
    let tokens: usize = rows.iter().map(|row| row.ids.len()).sum();
    let (hidden, head_dim) = (config.hidden, shape.head_dim);
    let qkv_size = (shape.heads + 2 * shape.kv_heads) * head_dim;
    let Scratch { x, normed, wide, narrow, product, scores, quantized } = scratch;
    x.resize(tokens * hidden, 0.0);
    normed.resize(tokens * hidden, 0.0);
    product.resize(tokens * hidden, 0.0);
    let tiles = tiles(rows);
    let longest = longest(rows);
    watch.qkv.resize(watch.layers.len() * tokens * qkv_size, 0.0);
    watch.weights.clear();
    watch.weights.resize(watch.layers.len() * tokens * shape.heads * longest, 0.0);

    let ids = rows.iter().flat_map(|row| row.ids);
    for (&id, out) in ids.zip(x.chunks_exact_mut(hidden)) {
        model.embed(id as usize, out);
    }
    for (index, layer) in model.layers.iter().enumerate() {
        norm_rows(x, &layer.input_norm, config.epsilon, normed);
        wide.resize(tokens * qkv_size, 0.0);
        model.product(&layer.qkv, normed, tokens, quantized, wide);
        let shared = Shared::new(wide);
        for_parts(tiles.len(), 1, |_, part| {
            for tile in &tiles[part] {
                for i in 0..tile.count {
                    let at = (tile.token + i) * qkv_size;
                    let qkv = unsafe { shared.part(at..at + qkv_size) };
                    store(model, pool, rows[tile.row].sequence, index, tile.position + i, qkv);
                }
            }
        });
        narrow.resize(tokens * shape.heads * head_dim, 0.0);
        let place = watch.layers.iter().position(|&layer| layer == index);
        let weights = match place {
            Some(place) => {
                watch.qkv[place * wide.len()..][..wide.len()].copy_from_slice(wide);
                let size = tokens * shape.heads * longest;
                Some(&mut watch.weights[place * size..][..size])
            }
            None => None,
        };
        attend_tiles(pool, rows, &tiles, shape, index, wide, scores, narrow, weights);
        model.product(&layer.output, narrow, tokens, quantized, product);
        add_rows(x, product, hidden);

        norm_rows(x, &layer.post_attention_norm, config.epsilon, normed);
        let intermediate = config.intermediate;
        wide.resize(tokens * 2 * intermediate, 0.0);
        narrow.resize(tokens * intermediate, 0.0);
        let out = Shared::new(narrow);
        // Whoever has the gates of a block has what they are for: no other thread waits, and none needs a door for it.
        model.product_then(&layer.gate_up, normed, tokens, quantized, wide, &|wide, blocks| {
            for token in 0..tokens {
                for block in blocks.clone() {
                    let at = token * intermediate + block * BLOCK;
                    let (from, to) = (2 * at..2 * (at + BLOCK), at..at + BLOCK);
                    let (gate, up) = unsafe { wide.part(from) }.split_at(BLOCK);
                    swiglu(gate, up, unsafe { out.part(to) });
                }
            }
        });
        model.product(&layer.down, narrow, tokens, quantized, product);
        add_rows(x, product, hidden);
    }
    states.resize(tokens * hidden, 0.0);
    norm_rows(x, &model.final_norm, config.epsilon, states);
    for row in rows {
        row.sequence.length = row.start + row.ids.len();
    }
}

/// f32 `[rows, vocab]` of f32 `[rows, hidden]` states; `out` has room for it.
pub fn logits(model: &Model, states: &[f32], scratch: &mut Scratch, out: &mut Vec<f32>) {
    let head = if model.head.is_some() { &model.head } else { &model.embedding };
    let rows = states.len() / model.config.hidden;
    out.resize(rows * model.config.vocab, 0.0);
    if rows > 0 {
        model.product(head, states, rows, &mut scratch.quantized, out);
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
    let half = model.config.rotary_dim / 2;
    let (cos, sin) = (&model.cos[position * half..][..half], &model.sin[position * half..][..half]);
    for head in qkv[..(shape.heads + shape.kv_heads) * shape.head_dim].chunks_exact_mut(shape.head_dim) {
        rotate(head, cos, sin);
    }
    store_token(shape, pool, sequence, layer, position, qkv);
}

/// Puts keys and values of one token, `[heads + 2 * kv_heads, head_dim]`, into the cache.
pub fn store_token(
    shape: &AttentionShape,
    pool: &BlockPool,
    sequence: &Sequence,
    layer: usize,
    position: usize,
    qkv: &[f32],
) {
    let block = sequence.blocks[position / BLOCK_TOKENS];
    for (kind, first) in [(Kind::Keys, shape.heads), (Kind::Values, shape.heads + shape.kv_heads)] {
        for kv_head in 0..shape.kv_heads {
            let values = &qkv[(first + kv_head) * shape.head_dim..][..shape.head_dim];
            unsafe { pool.write(block, layer, kind, kv_head, position % BLOCK_TOKENS, values) };
        }
    }
}
