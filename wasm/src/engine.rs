//! The engine as JavaScript sees it: load weights, keep sequences, run passes. Pointers are byte addresses.

use std::slice::from_raw_parts;

use wasm_bindgen::prelude::wasm_bindgen;

use crate::attention::AttentionShape;
use crate::forward::{forward, logits, Scratch, Watch};
use crate::kv::{BlockPool, KvShape, KvType, Sequence, BLOCK_TOKENS};
use crate::layout::Weights;
use crate::linear::{Linear, Order};
use crate::memory::{reserve, spare_is_left};
use crate::model::{Config, Layer, Model};
use crate::pack::Source;
use crate::ranking::{log_sum_exp, Ranking};
use crate::row::Row;
use crate::table::Table;

/// From the number that the exported functions take: 0 f32, 1 int8.
pub fn kv_type(index: u32) -> KvType {
    [KvType::F32, KvType::Int8][index as usize]
}

/// What a row of `Engine::forward` wants: `[sequence, start, tokens, logits]`, logits 0 none, 1 last, 2 all.
const ROW_NUMBERS: usize = 4;

#[wasm_bindgen]
pub struct Engine {
    model: Model,
    pool: BlockPool,
    /// By id; `None` is free.
    sequences: Vec<Option<Sequence>>,
    scratch: Scratch,
    states: Vec<f32>,
    picked: Vec<f32>,
    logits: Vec<f32>,
    watch: Watch,
    ranking: Ranking,
}

#[wasm_bindgen]
impl Engine {
    /// `rotary_dim` numbers of each head are turned; `window` 0 means that attention sees all; `kv` is the KV's type,
    /// 0 f32, 1 int8.
    #[wasm_bindgen(constructor)]
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        layers: usize,
        hidden: usize,
        intermediate: usize,
        heads: usize,
        kv_heads: usize,
        head_dim: usize,
        rotary_dim: usize,
        vocab: usize,
        epsilon: f32,
        window: usize,
        kv: u32,
        f32_activations: bool,
    ) -> Engine {
        let window = if window == 0 { usize::MAX } else { window };
        let attention = AttentionShape { heads, kv_heads, head_dim, window };
        Engine {
            model: Model {
                config: Config { hidden, intermediate, attention, rotary_dim, vocab, epsilon, f32_activations },
                layers: (0..layers).map(|_| Layer::default()).collect(),
                embedding: None,
                table: None,
                head: None,
                final_norm: Vec::new(),
                cos: Vec::new(),
                sin: Vec::new(),
            },
            pool: BlockPool::new(KvShape { layers, kv_heads, head_dim, kv_type: kv_type(kv) }),
            sequences: Vec::new(),
            scratch: Scratch::default(),
            states: Vec::new(),
            picked: Vec::new(),
            logits: Vec::new(),
            watch: Watch::default(),
            ranking: Ranking::new(vocab),
        }
    }

    /// Makes room for a matrix `[n, k]` in `slot`: 0 qkv, 1 output, 2 gate_up, 3 down of `layer`; 4 embedding, 5 head.
    /// `weights` as in `lib.rs`. Returns false when the memory is not there.
    pub fn new_matrix(&mut self, slot: u32, layer: usize, weights: u32, n: usize, k: usize) -> bool {
        let place = self.matrix(slot, layer);
        *place = None;
        let order = if slot == 2 { Order::Paired } else { Order::AsPacked };
        *place = Linear::new(Weights::from_index(weights), n, k, order);
        place.is_some()
    }

    /// Packs rows `first..first + rows` of the matrix in `slot`, on all threads; `first` is a multiple of 16. Operands and
    /// result are those of `pack` in `lib.rs`.
    #[allow(clippy::too_many_arguments)]
    pub fn pack_rows(
        &mut self,
        slot: u32,
        layer: usize,
        first: usize,
        rows: usize,
        qweight: usize,
        scales: usize,
        zeros: usize,
        packed_zeros: bool,
    ) -> i32 {
        let linear = self.matrix(slot, layer).as_mut().unwrap();
        let source = unsafe { Source::at(linear.weights, rows, linear.k, qweight, scales, zeros, packed_zeros) };
        linear.pack(first, &source).report()
    }

    /// Copies rows `first..first + count` of an embedding that is not quantized, f16 where `half`, else f32; it is kept as
    /// f16. The rows from 0 on make it anew. Returns 0, -1 when a value does not fit f16, -2 when the memory is not there.
    pub fn set_table(&mut self, first: usize, count: usize, values: usize, half: bool) -> i32 {
        let Config { vocab, hidden, .. } = self.model.config;
        if first == 0 {
            self.model.table = None;
            self.model.table = Table::new(vocab, hidden);
        }
        let Some(table) = &mut self.model.table else { return -2 };
        let fits = unsafe { table.fill(first, count, values, half) };
        if fits {
            0
        } else {
            -1
        }
    }

    /// Copies f32 values for `slot`: 0 input norm, 1 post-attention norm of `layer`; 2 final norm, 3 cos, 4 sin.
    /// Returns false when the memory is not there.
    pub fn set_vector(&mut self, slot: u32, layer: usize, values: usize, count: usize) -> bool {
        let model = &mut self.model;
        let vector = match slot {
            0 => &mut model.layers[layer].input_norm,
            1 => &mut model.layers[layer].post_attention_norm,
            2 => &mut model.final_norm,
            3 => &mut model.cos,
            _ => &mut model.sin,
        };
        let reserved = reserve(vector, count);
        if reserved {
            vector.clear();
            vector.extend_from_slice(unsafe { from_raw_parts(values as *const f32, count) });
        }
        reserved
    }

    /// An empty sequence. Returns its id.
    pub fn sequence_new(&mut self) -> usize {
        let free = self.sequences.iter().position(Option::is_none);
        let id = free.unwrap_or_else(|| {
            self.sequences.push(None);
            self.sequences.len() - 1
        });
        self.sequences[id] = Some(Sequence::default());
        id
    }

    /// A second sequence with the first `length` tokens. Blocks are shared until one of the two writes. Returns its
    /// id; none when there is no memory for the list of its blocks.
    pub fn sequence_fork(&mut self, id: usize, length: usize) -> Option<usize> {
        if !spare_is_left() {
            return None;
        }
        let fork = self.pool.fork(self.sequences[id].as_ref().unwrap(), length);
        let id = self.sequence_new();
        self.sequences[id] = Some(fork);
        Some(id)
    }

    /// Forgets a sequence's tokens from `length` on.
    pub fn sequence_truncate(&mut self, id: usize, length: usize) {
        self.pool.truncate(self.sequences[id].as_mut().unwrap(), length);
    }

    /// Gives a sequence's blocks back.
    pub fn sequence_free(&mut self, id: usize) {
        if let Some(mut sequence) = self.sequences.get_mut(id).and_then(Option::take) {
            self.pool.truncate(&mut sequence, 0);
        }
    }

    /// KV blocks that sequences use, each counted once however many share it.
    pub fn used_blocks(&self) -> usize {
        self.pool.used()
    }

    /// Bytes of a KV block.
    pub fn block_bytes(&self) -> usize {
        self.pool.shape.block_bytes()
    }

    /// Copies block `index` of a sequence to `to`, with zeros for tokens that it does not have.
    pub fn copy_block_out(&self, id: usize, index: usize, to: usize) {
        let sequence = self.sequences[id].as_ref().unwrap();
        let count = BLOCK_TOKENS.min(sequence.length - index * BLOCK_TOKENS);
        unsafe { self.pool.copy_out(sequence.blocks[index], count, to as *mut u8) }
    }

    /// Fills block `index` of a sequence that `sequence_fill` made.
    pub fn copy_block_in(&mut self, id: usize, index: usize, from: usize) {
        let block = self.sequences[id].as_ref().unwrap().blocks[index];
        unsafe { self.pool.copy_in(block, from as *const u8) }
    }

    /// Makes an empty sequence one of `tokens` tokens, whose blocks the caller fills. Returns false, and changes nothing,
    /// when the memory is not there.
    pub fn sequence_fill(&mut self, id: usize, tokens: usize) -> bool {
        let mut sequence = self.sequences[id].take().unwrap();
        let reserved = self.try_twice(|engine| engine.pool.reserve(&mut sequence, tokens));
        if reserved {
            sequence.length = tokens;
        }
        self.sequences[id] = Some(sequence);
        reserved
    }

    /// Runs `count` rows; `ids` u32 holds their tokens one after the other. A row's sequence is cut back to its `start`
    /// first. Returns false when memory ran out: then no row was run.
    pub fn forward(&mut self, rows: usize, count: usize, ids: usize) -> bool {
        let rows = unsafe { from_raw_parts(rows as *const u32, count * ROW_NUMBERS) };
        let tokens: usize = rows.chunks_exact(ROW_NUMBERS).map(|row| row[2] as usize).sum();
        let mut ids = unsafe { from_raw_parts(ids as *const u32, tokens) };
        let mut sequences: Vec<Sequence> = Vec::with_capacity(count);
        for row in rows.chunks_exact(ROW_NUMBERS) {
            let mut sequence = self.sequences[row[0] as usize].take().unwrap();
            self.pool.truncate(&mut sequence, row[1] as usize);
            sequences.push(sequence);
        }
        let mut batch = Vec::with_capacity(count);
        for (row, sequence) in rows.chunks_exact(ROW_NUMBERS).zip(&mut sequences) {
            let (own, rest) = ids.split_at(row[2] as usize);
            ids = rest;
            batch.push(Row { sequence, start: row[1] as usize, ids: own });
        }
        let positions = rows.chunks_exact(ROW_NUMBERS).map(positions).sum();
        let reserved = self.try_twice(|engine| engine.reserve(&mut batch, positions));
        if reserved {
            forward(&self.model, &self.pool, &mut batch, &mut self.scratch, &mut self.states, &mut self.watch);
        }
        for (row, sequence) in rows.chunks_exact(ROW_NUMBERS).zip(sequences) {
            self.sequences[row[0] as usize] = Some(sequence);
        }
        if reserved {
            self.pick(rows);
            logits(&self.model, &self.picked, &mut self.scratch, &mut self.logits);
        }
        reserved
    }

    /// Where the last pass's logits are: f32, the rows' wanted positions one after the other.
    pub fn logits(&self) -> usize {
        self.logits.as_ptr() as usize
    }

    /// Ranks the `k` largest logits of the last pass's wanted position `position`. Returns the logarithm of the sum of
    /// `exp` of all; ids u32 and logits f32 are where `ranked_ids` and `ranked_logits` say.
    pub fn rank(&mut self, position: usize, k: usize) -> f64 {
        let vocab = self.model.config.vocab;
        let logits = &self.logits[position * vocab..(position + 1) * vocab];
        self.ranking.fill(logits, k.max(1));
        log_sum_exp(logits, self.ranking.logits[0])
    }

    pub fn ranked_ids(&self) -> usize {
        self.ranking.ids.as_ptr() as usize
    }

    pub fn ranked_logits(&self) -> usize {
        self.ranking.logits.as_ptr() as usize
    }

    /// Looks into one more layer in the passes to come.
    pub fn watch(&mut self, layer: usize) {
        self.watch.layers.push(layer);
    }

    /// Looks no more, and gives the memory back.
    pub fn unwatch(&mut self) {
        self.watch = Watch::default();
    }

    /// Where queries, keys and values of the watched layers are, as in `Watch`.
    pub fn watched_qkv(&self) -> usize {
        self.watch.qkv.as_ptr() as usize
    }

    /// Where the attention weights of the watched layers are, as in `Watch`.
    pub fn watched_weights(&self) -> usize {
        self.watch.weights.as_ptr() as usize
    }

    /// Where the last pass's hidden states are: f32 `[tokens, hidden]`.
    pub fn states(&self) -> usize {
        self.states.as_ptr() as usize
    }

    fn matrix(&mut self, slot: u32, layer: usize) -> &mut Option<Linear> {
        let model = &mut self.model;
        match slot {
            0 => &mut model.layers[layer].qkv,
            1 => &mut model.layers[layer].output,
            2 => &mut model.layers[layer].gate_up,
            3 => &mut model.layers[layer].down,
            4 => &mut model.embedding,
            _ => &mut model.head,
        }
    }

    /// Asks for memory; if it is not there, again when what nobody uses was given back.
    fn try_twice(&mut self, mut ask: impl FnMut(&mut Self) -> bool) -> bool {
        ask(self) || {
            self.pool.give_back();
            self.scratch = Scratch::default();
            for buffer in [&mut self.states, &mut self.picked, &mut self.logits] {
                *buffer = Vec::new();
            }
            ask(self)
        }
    }

    /// Makes room for all that a pass writes. Returns false when the memory is not there.
    fn reserve(&mut self, batch: &mut [Row], positions: usize) -> bool {
        let Config { hidden, vocab, .. } = self.model.config;
        let tokens: usize = batch.iter().map(|row| row.ids.len()).sum();
        batch.iter_mut().all(|row| self.pool.reserve(row.sequence, row.start + row.ids.len()))
            && self.scratch.reserve(&self.model.config, batch, &mut self.watch)
            && reserve(&mut self.states, tokens * hidden)
            && reserve(&mut self.picked, positions * hidden)
            && reserve(&mut self.logits, positions * vocab)
    }

    /// Gathers the states whose logits are wanted.
    fn pick(&mut self, rows: &[u32]) {
        let hidden = self.model.config.hidden;
        self.picked.clear();
        let mut at = 0;
        for row in rows.chunks_exact(ROW_NUMBERS) {
            let tokens = row[2] as usize;
            let first = tokens - positions(row);
            self.picked.extend_from_slice(&self.states[(at + first) * hidden..(at + tokens) * hidden]);
            at += tokens;
        }
    }
}

/// Of a row's tokens, how many get logits: the last ones.
fn positions(row: &[u32]) -> usize {
    match row[3] {
        0 => 0,
        1 => 1,
        _ => row[2] as usize,
    }
}
