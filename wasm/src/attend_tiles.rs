//! Attention of a whole pass, shared among threads.
//!
//! A thread that reads all heads of some tokens reads memory in long runs; one that reads a few heads of all tokens
//! takes up to three times as long for a byte. So where there are few queries, threads share the tokens that these look
//! back on: a sequence is cut into segments of fixed length, and what a query found in each is merged in their order.
//! Who attended which segment changes no bits.

use std::ops::Range;

use crate::attention::{attend, finish, merge, scratch_floats, state_floats, AttentionShape, Query, QUERIES, SEGMENT};
use crate::kv::{BlockPool, BLOCK_TOKENS};
use crate::memory::reserve;
use crate::row::Row;
use crate::threads::{self, for_parts, Shared};

/// Heads of tokens that one thread finishes.
const FINISHED_TOGETHER: usize = 64;

/// Less than this for each thread, in elements of keys that queries are multiplied with, one attends faster than all.
const SHARED_FROM: usize = 4 << 10;

/// Tokens of a row that lie in one KV block: a thread has it alone when it writes.
pub struct Tile {
    pub row: usize,
    /// The first one's place in the pass.
    pub token: usize,
    /// The first one's place in its sequence.
    pub position: usize,
    pub count: usize,
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

/// What one thread attends: some heads of a tile's tokens, in some segments.
struct Unit {
    tile: usize,
    segments: Range<usize>,
    heads: Range<usize>,
    /// Of its first state: `[heads, tokens of the tile]` of them.
    state: usize,
}

/// Makes room in the `scratch` of `attend_tiles`. Returns false when the memory is not there.
pub fn reserve_scratch(scratch: &mut Vec<f32>, tiles: &[Tile], shape: &AttentionShape, weights: bool) -> bool {
    let apart = apart(tiles, shape, weights);
    reserve(scratch, scratch_len(shape, tiles, &units(tiles, shape, apart)))
}

/// Numbers that threads keep while they attend: some each, and the states of all units.
fn scratch_len(shape: &AttentionShape, tiles: &[Tile], units: &[Unit]) -> usize {
    let states = units.last().map_or(0, |unit| unit.state + unit.heads.len() * tiles[unit.tile].count);
    threads::count() * scratch_floats(shape.head_dim) + states * state_floats(shape.head_dim)
}

/// Whether threads share what each token looks back on, not the tokens.
fn apart(tiles: &[Tile], shape: &AttentionShape, weights: bool) -> bool {
    let few = tiles.len() < 2 * threads::count() && threads::count() > 1;
    few && !weights && tiles.iter().any(|tile| segments(tile, shape).len() > 1)
}

/// The segments that a tile's tokens look back on.
fn segments(tile: &Tile, shape: &AttentionShape) -> Range<usize> {
    shape.first(tile.position) / SEGMENT..(tile.position + tile.count - 1) / SEGMENT + 1
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
    let group = heads / kv_heads;
    let size = state_floats(head_dim);
    let longest = tiles.iter().map(|tile| tile.position + tile.count).max().unwrap_or(0);
    let apart = apart(tiles, shape, weights.is_some());
    let units = units(tiles, shape, apart);

    let floats = scratch_floats(head_dim);
    scratch.resize(scratch.len().max(scratch_len(shape, tiles, &units)), 0.0);
    let (scratch, states) = scratch.split_at_mut(threads::count() * floats);
    let weights = weights.as_mut().map(|weights| Shared::new(weights));
    let (scratch, states, shared_out) = (Shared::new(scratch), Shared::new(states), Shared::new(out));
    for_parts(units.len(), 1, |thread, part| {
        let scratch = unsafe { scratch.part(thread * floats..(thread + 1) * floats) };
        for unit in part {
            // The last tokens of a prompt see most and take longest: they come first.
            let unit = &units[units.len() - 1 - unit];
            let tile = &tiles[unit.tile];
            let count = unit.heads.len() * tile.count;
            let states = unsafe { states.part(unit.state * size..(unit.state + count) * size) };
            states.fill(0.0);
            let maxima = unit.segments.len() * weights.is_some() as usize;
            let mut maxima = vec![0.0f32; count * maxima];
            let query = |(i, state): (usize, &mut [f32])| {
                let (head, token) = (unit.heads.start + i / tile.count, i % tile.count);
                let at = (tile.token + token) * heads + head;
                Query {
                    kv_head: head / group,
                    position: tile.position + token,
                    query: qkv[(tile.token + token) * (heads + 2 * kv_heads) * head_dim + head * head_dim..].as_ptr(),
                    state: state.as_mut_ptr(),
                    weights: weights.as_ref().map_or(std::ptr::null_mut(), |weights| {
                        unsafe { weights.part(at * longest..(at + 1) * longest) }.as_mut_ptr()
                    }),
                    first_segment: unit.segments.start,
                    maxima: unsafe { maxima.as_mut_ptr().add(i * unit.segments.len() * weights.is_some() as usize) },
                }
            };
            let all: Vec<Query> = states.chunks_exact_mut(size).enumerate().map(query).collect();
            // Of many tokens each head has enough to do alone; of one token all heads together make the longest stream.
            let most = if tile.count > 1 { BLOCK_TOKENS } else { QUERIES };
            for queries in all.chunks(most) {
                for segment in unit.segments.clone() {
                    let sequence = &*rows[tile.row].sequence;
                    unsafe { attend(pool, sequence, shape, layer, segment, queries, scratch) };
                }
            }
            if !apart {
                for (i, query) in all.iter().enumerate() {
                    let (head, token) = (unit.heads.start + i / tile.count, i % tile.count);
                    let at = ((tile.token + token) * heads + head) * head_dim;
                    unsafe { finish(query, shape, shared_out.part(at..at + head_dim)) };
                }
            }
        }
    });
    if apart {
        merge_units(tiles, &units, shape, states, shared_out);
    }
}

/// Cuts the work: by segments where `apart`; and by heads, in groups that share keys and values, until there is enough.
fn units(tiles: &[Tile], shape: &AttentionShape, apart: bool) -> Vec<Unit> {
    let AttentionShape { heads, kv_heads, .. } = *shape;
    let whole = if apart { tiles.iter().map(|tile| segments(tile, shape).len()).sum() } else { tiles.len() };
    let seen: usize = tiles.iter().map(|tile| tile.count * (tile.position + tile.count)).sum();
    let alone = threads::count() == 1 || seen * heads * shape.head_dim < SHARED_FROM * threads::count();
    let cuts = if alone { 1 } else { (2 * threads::count()).div_ceil(whole.max(1)) };
    let together = kv_heads.div_ceil(cuts) * heads / kv_heads;
    let mut state = 0;
    let mut units = Vec::new();
    for (index, tile) in tiles.iter().enumerate() {
        let all = segments(tile, shape);
        let step = if apart { 1 } else { all.len() };
        for first in all.clone().step_by(step) {
            for head in (0..heads).step_by(together) {
                let heads = head..heads.min(head + together);
                let count = heads.len() * tile.count;
                units.push(Unit { tile: index, segments: first..first + step, heads, state });
                state += count;
            }
        }
    }
    units
}

/// Merges the states of a tile's units, in the order of their segments, into the first ones, and finishes those.
fn merge_units(tiles: &[Tile], units: &[Unit], shape: &AttentionShape, states: Shared<f32>, out: Shared<f32>) {
    let size = state_floats(shape.head_dim);
    // States of a tile lie by segment, head and token, however its heads are cut.
    let first = |index: usize| units.partition_point(|unit| unit.tile < index);
    let starts: Vec<usize> = (0..tiles.len()).map(first).collect();
    let tokens: usize = tiles.iter().map(|tile| tile.count).sum();
    for_parts(tokens * shape.heads, FINISHED_TOGETHER, |_, part| {
        for item in part {
            let (token, head) = (item / shape.heads, item % shape.heads);
            let index = tiles.partition_point(|tile| tile.token <= token) - 1;
            let tile = &tiles[index];
            let end = starts.get(index + 1).copied().unwrap_or(units.len());
            let of_tile = &units[starts[index]..end];
            let segments = of_tile.last().unwrap().segments.end - of_tile[0].segments.start;
            let place = |segment: usize| {
                let at = of_tile[0].state + (segment * shape.heads + head) * tile.count + token - tile.token;
                at * size..(at + 1) * size
            };
            let state = unsafe { states.part(place(0)) };
            for segment in 1..segments {
                let later = unsafe { states.part(place(segment)) };
                merge(state, &later[..shape.head_dim], later[shape.head_dim], later[shape.head_dim + 1]);
            }
            let at = (token * shape.heads + head) * shape.head_dim;
            let query = Query::finished(state.as_mut_ptr());
            unsafe { finish(&query, shape, out.part(at..at + shape.head_dim)) };
        }
    });
}
