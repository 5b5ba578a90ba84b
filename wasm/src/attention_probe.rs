//! Attention alone, as tests and measurements see it: one layer, one sequence.

use std::slice::from_raw_parts;

use wasm_bindgen::prelude::wasm_bindgen;

use crate::attend_tiles::{attend_tiles, tiles};
use crate::attention::AttentionShape;
use crate::forward::store_token;
use crate::kv::{BlockPool, KvShape, Sequence};
use crate::row::Row;
use crate::scalar_attention;

#[wasm_bindgen]
pub struct AttentionProbe {
    shape: AttentionShape,
    pool: BlockPool,
    sequence: Sequence,
    scratch: Vec<f32>,
}

#[wasm_bindgen]
impl AttentionProbe {
    /// `kv_type` 0 f32, 1 int8; `window` 0 means that attention sees all.
    #[wasm_bindgen(constructor)]
    pub fn new(kv_type: u32, heads: usize, kv_heads: usize, head_dim: usize, window: usize) -> AttentionProbe {
        let window = if window == 0 { usize::MAX } else { window };
        AttentionProbe {
            shape: AttentionShape { heads, kv_heads, head_dim, window },
            pool: BlockPool::new(KvShape { layers: 1, kv_heads, head_dim, kv_type: crate::engine::kv_type(kv_type) }),
            sequence: Sequence::default(),
            scratch: Vec::new(),
        }
    }

    /// Appends `count` tokens, f32 `[count, heads + 2 * kv_heads, head_dim]`, as the cache keeps them.
    pub fn append(&mut self, qkv: usize, count: usize) {
        let start = self.sequence.length;
        assert!(self.pool.reserve(&mut self.sequence, start + count));
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.shape;
        let size = (heads + 2 * kv_heads) * head_dim;
        let tokens = unsafe { from_raw_parts(qkv as *const f32, count * size) };
        for (i, qkv) in tokens.chunks_exact(size).enumerate() {
            store_token(&self.shape, &self.pool, &self.sequence, 0, start + i, qkv);
        }
        self.sequence.length += count;
    }

    /// Attends the last `count` tokens, whose queries are in `qkv`, to `out` f32 `[count, heads, head_dim]`; with
    /// `scalar` one element at a time.
    pub fn attend(&mut self, qkv: usize, count: usize, out: usize, scalar: bool) {
        let AttentionShape { heads, kv_heads, head_dim, .. } = self.shape;
        let size = (heads + 2 * kv_heads) * head_dim;
        let start = self.sequence.length - count;
        let qkv = unsafe { from_raw_parts(qkv as *const f32, count * size) };
        let out = unsafe { std::slice::from_raw_parts_mut(out as *mut f32, count * heads * head_dim) };
        if scalar {
            for (unit, out) in out.chunks_exact_mut(head_dim).enumerate() {
                let (token, head) = (unit / heads, unit % heads);
                let query = &qkv[token * size + head * head_dim..][..head_dim];
                let kv_head = head * kv_heads / heads;
                let (pool, sequence) = (&self.pool, &self.sequence);
                scalar_attention::attend(pool, sequence, &self.shape, 0, kv_head, start + token, query, out);
            }
            return;
        }
        let ids = vec![0; count];
        let rows = [Row { sequence: &mut self.sequence, start, ids: &ids }];
        let tiles = tiles(&rows);
        attend_tiles(&self.pool, &rows, &tiles, &self.shape, 0, qkv, &mut self.scratch, out, None);
    }
}
