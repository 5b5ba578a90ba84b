//! One forward pass over a batch of rows, each some tokens of a sequence.
//!
//! Matrix products take all tokens of the pass together; everything else goes token by token. No token's numbers
//! depend on another sequence or on how its own was cut into passes, so neither do the bits.

use crate::attention::{attend, scratch_floats, AttentionShape, Query, QUERIES};
use crate::kv::{BlockPool, Kind, Sequence, BLOCK_TOKENS};
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

/// Layers to look into, and what a pass left there.
#[derive(Default)]
pub struct Watch {
    pub layers: Vec<usize>,
    /// f32 `[layers, tokens, heads + 2 * kv_heads, head_dim]`: queries and keys, turned to their position, and values.
    pub qkv: Vec<f32>,
    /// f32 `[layers, tokens, heads, length]`: attention weights, `length` that of the longest sequence; 0 beyond a token.
    pub weights: Vec<f32>,
}

/// Runs all layers. The last hidden states, after the final norm, are f32 `[tokens, hidden]` in `states`.
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
    let longest = rows.iter().map(|row| row.start + row.ids.len()).max().unwrap_or(0);
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
        model.product(&layer.gate_up, normed, tokens, quantized, wide);
        narrow.resize(tokens * intermediate, 0.0);
        let out = Shared::new(narrow);
        for_parts(tokens, TOKENS_APART, |_, part| {
            for token in part {
                let out = unsafe { out.part(token * intermediate..(token + 1) * intermediate) };
                swiglu(&wide[token * 2 * intermediate..][..2 * intermediate], out);
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

/// Tokens of a row that lie in one KV block: a thread has it alone when it writes.
pub struct Tile {
    row: usize,
    /// The first one's place in the pass.
    token: usize,
    /// The first one's place in its sequence.
    position: usize,
    count: usize,
}

pub fn tiles(rows: &[Row]) -> Vec<Tile> {
    let mut tiles = Vec::new();
    let mut token = 0;
    for (row, it) in rows.iter().enumerate() {
        let end = it.start + it.ids.len();
        let mut position = it.start;
        while position < end {
            let count = (BLOCK_TOKENS - position % BLOCK_TOKENS).min(end - position);
            tiles.push(Tile { row, token, position, count });
            position += count;
            token += count;
        }
    }
    tiles
}

/// Attends all tokens of a pass: `qkv` f32 `[tokens, heads + 2 * kv_heads, head_dim]`, `out` `[tokens, heads, head_dim]`.
/// Attention weights go to `weights`, `[tokens, heads, length of the longest sequence]`, where it is asked for.
#[allow(clippy::too_many_arguments)]
pub fn attend_tiles(
    pool: &BlockPool,
    rows: &[Row],
    tiles: &[Tile],
    shape: &AttentionShape,
    layer: usize,
    qkv: &[f32],
    scratch: &mut Vec<f32>,
    out: &mut [f32],
    mut weights: Option<&mut [f32]>,
) {
    let AttentionShape { heads, kv_heads, head_dim, .. } = *shape;
    let longest = tiles.iter().map(|tile| tile.position + tile.count).max().unwrap_or(0);
    let floats = scratch_floats(longest, head_dim);
    scratch.resize(scratch.len().max(threads::count() * floats), 0.0);
    // Heads that share keys and values read them together: reading them twice costs more than a thread that waits.
    let group = heads / kv_heads;
    let together = match threads::count() {
        1 => heads,
        threads => (tiles.len() * kv_heads / (2 * threads)).clamp(1, kv_heads) * group,
    };
    let per_tile = heads.div_ceil(together);
    let units = tiles.len() * per_tile;
    let weights = weights.as_mut().map(|weights| Shared::new(weights));
    let (scratch, out) = (Shared::new(scratch), Shared::new(out));
    for_parts(units, 1, |thread, part| {
        let scratch = unsafe { scratch.part(thread * floats..(thread + 1) * floats) };
        for unit in part {
            // The last tokens of a prompt see most and take longest: they come first.
            let unit = units - 1 - unit;
            let (tile, first) = (&tiles[unit / per_tile], unit % per_tile * together);
            let query = |i: usize| {
                let (head, token) = (first + i / tile.count, i % tile.count);
                let at = (tile.token + token) * heads + head;
                Query {
                    kv_head: head / group,
                    position: tile.position + token,
                    query: qkv[(tile.token + token) * (heads + 2 * kv_heads) * head_dim + head * head_dim..].as_ptr(),
                    out: unsafe { out.part(at * head_dim..(at + 1) * head_dim) }.as_mut_ptr(),
                    weights: weights.as_ref().map_or(std::ptr::null_mut(), |weights| {
                        unsafe { weights.part(at * longest..(at + 1) * longest) }.as_mut_ptr()
                    }),
                }
            };
            let all: Vec<Query> = (0..together.min(heads - first) * tile.count).map(query).collect();
            // Of many tokens each head has enough to do alone; of one token all heads together make the longest stream.
            let most = if tile.count > 1 { BLOCK_TOKENS } else { QUERIES };
            for queries in all.chunks(most) {
                let sequence = &*rows[tile.row].sequence;
                unsafe { attend(pool, sequence, shape, layer, queries, scratch) };
            }
        }
    });
}

/// f32 `[rows, vocab]` of f32 `[rows, hidden]` states.
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
    let half = shape.head_dim / 2;
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
