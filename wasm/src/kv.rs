//! The KV cache: blocks of 16 tokens with reference counts, and sequences that list theirs.
//!
//! A block holds a part for each layer, kind (keys, values) and head. Blocks are made a slab at a time, and in a slab the
//! parts of one layer and kind lie side by side, block after block: attention reads them as one stream, and processors
//! fetch ahead the better the longer a stream is. Keys lie so that a vector's
//! lanes are tokens, values so that its lanes are dimensions: neither product sums across lanes. Values are cut into
//! strips of 32 dimensions, the last one narrower: what registers hold of a sum. So both are read from front to back.
//!
//! ```text
//!        f32                               int8
//! keys   [dim][16 tokens]                  [dim/2][16 tokens][2 dims]              then f32 [16], a scale a token
//! values [dim/32][16 tokens][32 dims]      [dim/32][8 pairs][32 dims][2 tokens]    then f32 [16]
//! ```

use std::arch::wasm32::*;

use crate::lanes::{abs_max, rounded};
use crate::memory::AlignedBytes;

/// Tokens in a block.
pub const BLOCK_TOKENS: usize = 16;

/// Blocks of a slab.
const SLAB: usize = 4;

/// Dimensions of a strip of values.
pub const STRIP: usize = 32;

/// How keys and values are kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum KvType {
    F32,
    /// A scale for each token and head: `q = round(x * (127 / amax))`.
    Int8,
}

/// Which half of a layer's KV.
#[derive(Clone, Copy)]
pub enum Kind {
    Keys,
    Values,
}

/// Sizes that a block has to hold. `head_dim` is a multiple of 4.
#[derive(Clone, Copy)]
pub struct KvShape {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub kv_type: KvType,
}

impl KvShape {
    /// Bytes of the keys, or values, of one head in a block.
    fn part_bytes(&self) -> usize {
        BLOCK_TOKENS
            * match self.kv_type {
                KvType::F32 => 4 * self.head_dim,
                KvType::Int8 => self.head_dim + 4,
            }
    }

    /// Bytes of a block's keys, or values, of one layer: all heads.
    fn run_bytes(&self) -> usize {
        self.kv_heads * self.part_bytes()
    }

    /// Bytes of a block.
    pub fn block_bytes(&self) -> usize {
        2 * self.layers * self.run_bytes()
    }

    /// Where the elements of a strip lie for one token, from the strip's start on, in elements: the first, the way from
    /// one pair of them to the next, and from the first of a pair to the second.
    fn strip_steps(&self, kind: Kind, token: usize, width: usize) -> (usize, usize, usize) {
        match (self.kv_type, kind) {
            (KvType::F32, Kind::Keys) => (token, 2 * BLOCK_TOKENS, BLOCK_TOKENS),
            (KvType::F32, Kind::Values) => (token * width, 2, 1),
            (KvType::Int8, Kind::Keys) => (2 * token, 2 * BLOCK_TOKENS, 1),
            (KvType::Int8, Kind::Values) => (token / 2 * 2 * width + token % 2, 4, 2),
        }
    }

    /// Where element `d` of a token lies in its part, in elements.
    fn place(&self, kind: Kind, token: usize, d: usize) -> usize {
        let strip = d / STRIP * STRIP;
        let (first, pair, second) = self.strip_steps(kind, token, STRIP.min(self.head_dim - strip));
        strip * BLOCK_TOKENS + first + d % STRIP / 2 * pair + d % 2 * second
    }

    /// Visits the places of a token in its part, four at a time: the first one's element, then where the four lie.
    #[inline(always)]
    fn each_four(&self, kind: Kind, token: usize, mut visit: impl FnMut(usize, [usize; 4])) {
        for strip in (0..self.head_dim).step_by(STRIP) {
            let width = STRIP.min(self.head_dim - strip);
            let (first, pair, second) = self.strip_steps(kind, token, width);
            let mut at = strip * BLOCK_TOKENS + first;
            for d in (strip..strip + width).step_by(4) {
                visit(d, [at, at + second, at + pair, at + pair + second]);
                at += 2 * pair;
            }
        }
    }

    /// Writes one token of a part.
    fn write(&self, part: &mut [u8], kind: Kind, token: usize, values: &[f32]) {
        assert!(values.len() == self.head_dim && part.len() == self.part_bytes() && token < BLOCK_TOKENS);
        match self.kv_type {
            KvType::F32 => {
                let floats = part.as_mut_ptr().cast::<f32>();
                self.each_four(kind, token, |d, places| {
                    for (i, at) in places.into_iter().enumerate() {
                        unsafe { floats.add(at).write(values[d + i]) };
                    }
                });
            }
            KvType::Int8 => {
                let amax = abs_max(values);
                let factor = 127.0 / amax;
                // A head of zeros, or of next to nothing; one that is not finite makes what reads it NaN.
                let factor = if factor.is_finite() && amax.is_finite() { factor } else { 0.0 };
                let scale = if amax.is_finite() {
                    if factor == 0.0 {
                        0.0
                    } else {
                        amax / 127.0
                    }
                } else {
                    f32::NAN
                };
                self.each_four(kind, token, |d, places| {
                    let four = unsafe { v128_load(values[d..d + 4].as_ptr().cast()) };
                    let q = rounded(four, factor);
                    part[places[0]] = i8x16_extract_lane::<0>(q) as u8;
                    part[places[1]] = i8x16_extract_lane::<4>(q) as u8;
                    part[places[2]] = i8x16_extract_lane::<8>(q) as u8;
                    part[places[3]] = i8x16_extract_lane::<12>(q) as u8;
                });
                let at = BLOCK_TOKENS * self.head_dim + 4 * token;
                part[at..at + 4].copy_from_slice(&scale.to_le_bytes());
            }
        }
    }

    /// One element of a part as it is kept: the number, and the scale that belongs to it.
    pub fn read(&self, part: &[u8], kind: Kind, token: usize, d: usize) -> (f32, f32) {
        let float = |at: usize| f32::from_le_bytes(part[at..at + 4].try_into().unwrap());
        let at = self.place(kind, token, d);
        match self.kv_type {
            KvType::F32 => (float(4 * at), 1.0),
            KvType::Int8 => (part[at] as i8 as f32, float(BLOCK_TOKENS * self.head_dim + 4 * token)),
        }
    }
}

/// All blocks of an engine. Blocks that nobody uses are kept for the next sequence, until memory runs out.
pub struct BlockPool {
    pub shape: KvShape,
    /// `[2 * layers, SLAB, kv_heads]` parts each; `None` is one whose memory was given back.
    slabs: Vec<Option<AlignedBytes>>,
    /// Sequences that list a block; 0 when it is free, or not there.
    users: Vec<u32>,
    /// Blocks that are there and have no users. The next to be used is the last.
    free: Vec<u32>,
}

/// One sequence's tokens, in order: `blocks[t / 16]` holds token `t`.
#[derive(Default)]
pub struct Sequence {
    pub blocks: Vec<u32>,
    pub length: usize,
}

impl BlockPool {
    pub fn new(shape: KvShape) -> Self {
        BlockPool { shape, slabs: Vec::new(), users: Vec::new(), free: Vec::new() }
    }

    /// Blocks that sequences use now, each counted once however many share it.
    pub fn used(&self) -> usize {
        self.users.iter().filter(|&&users| users > 0).count()
    }

    /// Makes room for `tokens` tokens in all. A last block that another sequence shares is copied before it is written.
    /// Returns whether the memory was there; if not, `sequence` is as before.
    pub fn reserve(&mut self, sequence: &mut Sequence, tokens: usize) -> bool {
        let held = sequence.blocks.len();
        let first_written = sequence.length / BLOCK_TOKENS;
        if first_written < held && self.users[sequence.blocks[first_written] as usize] > 1 {
            let Some(copy) = self.allocate() else { return false };
            let old = sequence.blocks[first_written];
            for (from, to) in self.runs(old).zip(self.runs(copy)) {
                unsafe { to.copy_from_nonoverlapping(from, self.shape.run_bytes()) };
            }
            self.release(old);
            sequence.blocks[first_written] = copy;
        }
        while sequence.blocks.len() * BLOCK_TOKENS < tokens {
            let Some(block) = self.allocate() else {
                while sequence.blocks.len() > held {
                    let last = sequence.blocks.pop().unwrap();
                    self.release(last);
                }
                return false;
            };
            sequence.blocks.push(block);
        }
        true
    }

    /// Forgets tokens from `length` on, and gives back blocks that hold none any more.
    pub fn truncate(&mut self, sequence: &mut Sequence, length: usize) {
        sequence.length = sequence.length.min(length);
        while sequence.blocks.len() > sequence.length.div_ceil(BLOCK_TOKENS) {
            let last = sequence.blocks.pop().unwrap();
            self.release(last);
        }
    }

    /// A second sequence over the blocks of the first `length` tokens: nothing is copied until one of them writes.
    pub fn fork(&mut self, sequence: &Sequence, length: usize) -> Sequence {
        let length = length.min(sequence.length);
        let blocks = sequence.blocks[..length.div_ceil(BLOCK_TOKENS)].to_vec();
        for &block in &blocks {
            self.users[block as usize] += 1;
        }
        Sequence { blocks, length }
    }

    /// Keys or values of one head in a block, as the head of this file draws them.
    pub fn part(&self, block: u32, layer: usize, kind: Kind, kv_head: usize) -> &[u8] {
        let run = (2 * layer + kind as usize) * SLAB + block as usize % SLAB;
        let at = run * self.shape.run_bytes() + kv_head * self.shape.part_bytes();
        &self.slab(block)[at..at + self.shape.part_bytes()]
    }

    /// Writes one token's keys or values of a head, f32 `[head_dim]`.
    ///
    /// # Safety
    /// The block has one user, and no other thread reads or writes it meanwhile.
    pub unsafe fn write(&self, block: u32, layer: usize, kind: Kind, kv_head: usize, token: usize, values: &[f32]) {
        let part = self.part(block, layer, kind, kv_head);
        let part = std::slice::from_raw_parts_mut(part.as_ptr().cast_mut(), part.len());
        self.shape.write(part, kind, token, values);
    }

    /// The slab of a block that is there.
    fn slab(&self, block: u32) -> &AlignedBytes {
        self.slabs[block as usize / SLAB].as_ref().unwrap()
    }

    /// Gives back the memory of slabs that hold nothing.
    pub fn give_back(&mut self) {
        for (slab, users) in self.slabs.iter_mut().zip(self.users.chunks_exact(SLAB)) {
            if users.iter().all(|&users| users == 0) {
                *slab = None;
            }
        }
        self.free.retain(|&block| self.slabs[block as usize / SLAB].is_some());
    }

    /// Where a block's keys and values of each layer are, `run_bytes` each.
    fn runs(&self, block: u32) -> impl Iterator<Item = *mut u8> {
        let (slab, bytes) = (self.slab(block).as_ptr().cast_mut(), self.shape.run_bytes());
        (0..2 * self.shape.layers).map(move |i| unsafe { slab.add((i * SLAB + block as usize % SLAB) * bytes) })
    }

    /// Copies a block to `to`, tokens from `count` on as zeros: what lies there was never this sequence's, or no more.
    ///
    /// # Safety
    /// `to` has a block's bytes.
    pub unsafe fn copy_out(&self, block: u32, count: usize, to: *mut u8) {
        let bytes = self.shape.run_bytes();
        let zeros = vec![0.0; self.shape.head_dim];
        for (i, run) in self.runs(block).enumerate() {
            let to = std::slice::from_raw_parts_mut(to.add(i * bytes), bytes);
            to.copy_from_slice(std::slice::from_raw_parts(run, bytes));
            let kind = if i % 2 == 0 { Kind::Keys } else { Kind::Values };
            for part in to.chunks_exact_mut(self.shape.part_bytes()) {
                for token in count..BLOCK_TOKENS {
                    self.shape.write(part, kind, token, &zeros);
                }
            }
        }
    }

    /// Fills a block with what `copy_out` gave.
    ///
    /// # Safety
    /// `from` has a block's bytes, and the block one user.
    pub unsafe fn copy_in(&mut self, block: u32, from: *const u8) {
        let bytes = self.shape.run_bytes();
        for (i, run) in self.runs(block).enumerate() {
            run.copy_from_nonoverlapping(from.add(i * bytes), bytes);
        }
    }

    fn allocate(&mut self) -> Option<u32> {
        if self.free.is_empty() {
            let mut slab = AlignedBytes::new(SLAB * self.shape.block_bytes())?;
            slab.fill(0);
            let index = self.slabs.iter().position(Option::is_none).unwrap_or(self.slabs.len());
            if index == self.slabs.len() {
                self.slabs.push(None);
                self.users.resize(self.users.len() + SLAB, 0);
            }
            self.slabs[index] = Some(slab);
            let first = (index * SLAB) as u32;
            // In order, so that a sequence's blocks lie in order.
            self.free.extend((first..first + SLAB as u32).rev());
        }
        let block = self.free.pop()?;
        self.users[block as usize] = 1;
        Some(block)
    }

    fn release(&mut self, block: u32) {
        let users = &mut self.users[block as usize];
        *users -= 1;
        if *users == 0 {
            self.free.push(block);
        }
    }
}
