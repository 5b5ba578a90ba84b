//! The KV cache: blocks of 16 tokens with reference counts, and sequences that list theirs.

/// Tokens in a block.
pub const BLOCK_TOKENS: usize = 16;

/// Sizes that a block has to hold.
#[derive(Clone, Copy)]
pub struct KvShape {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl KvShape {
    /// Floats of one kind (keys or values) of one layer in a block.
    fn part(&self) -> usize {
        self.kv_heads * BLOCK_TOKENS * self.head_dim
    }

    /// Floats in a block: `[layer][keys, values][kv_head][token][head_dim]`.
    pub fn block_floats(&self) -> usize {
        2 * self.layers * self.part()
    }
}

struct Block {
    data: Box<[f32]>,
    /// Sequences that list it; 0 when it is free.
    users: u32,
}

/// All blocks of an engine. Blocks that nobody uses are kept for the next sequence.
pub struct BlockPool {
    shape: KvShape,
    blocks: Vec<Block>,
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
        BlockPool { shape, blocks: Vec::new(), free: Vec::new() }
    }

    /// Blocks that sequences use now.
    pub fn used(&self) -> usize {
        self.blocks.len() - self.free.len()
    }

    /// Makes room for `tokens` tokens in all. A last block that another sequence shares is copied before it is written.
    /// Returns whether the memory was there; if not, `sequence` is as before.
    pub fn reserve(&mut self, sequence: &mut Sequence, tokens: usize) -> bool {
        let held = sequence.blocks.len();
        let first_written = sequence.length / BLOCK_TOKENS;
        if first_written < held && self.blocks[sequence.blocks[first_written] as usize].users > 1 {
            let Some(copy) = self.allocate() else { return false };
            let old = sequence.blocks[first_written];
            let mut data = std::mem::take(&mut self.blocks[copy as usize].data);
            data.copy_from_slice(&self.blocks[old as usize].data);
            self.blocks[copy as usize].data = data;
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

    /// A second sequence over the same blocks: nothing is copied until one of them writes.
    pub fn fork(&mut self, sequence: &Sequence) -> Sequence {
        for &block in &sequence.blocks {
            self.blocks[block as usize].users += 1;
        }
        Sequence { blocks: sequence.blocks.clone(), length: sequence.length }
    }

    /// Keys (`kind` 0) or values (1) of one head in a block: f32 `[16, head_dim]`.
    pub fn head(&self, block: u32, layer: usize, kind: usize, kv_head: usize) -> &[f32] {
        let at = self.offset(layer, kind, kv_head);
        &self.blocks[block as usize].data[at..at + BLOCK_TOKENS * self.shape.head_dim]
    }

    /// Where one token's keys or values of a head are written: f32 `[head_dim]`.
    ///
    /// # Safety
    /// Nobody else reads or writes that token meanwhile: its block has one user, and one thread has the token.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn token_mut(&self, block: u32, layer: usize, kind: usize, kv_head: usize, token: usize) -> &mut [f32] {
        let at = self.offset(layer, kind, kv_head) + token * self.shape.head_dim;
        let data = &self.blocks[block as usize].data;
        assert!(at + self.shape.head_dim <= data.len());
        std::slice::from_raw_parts_mut(data.as_ptr().add(at).cast_mut(), self.shape.head_dim)
    }

    fn offset(&self, layer: usize, kind: usize, kv_head: usize) -> usize {
        ((2 * layer + kind) * self.shape.kv_heads + kv_head) * BLOCK_TOKENS * self.shape.head_dim
    }

    fn allocate(&mut self) -> Option<u32> {
        if let Some(block) = self.free.pop() {
            self.blocks[block as usize].users = 1;
            return Some(block);
        }
        let floats = self.shape.block_floats();
        let mut data = Vec::new();
        data.try_reserve_exact(floats).ok()?;
        data.resize(floats, 0.0);
        self.blocks.push(Block { data: data.into_boxed_slice(), users: 1 });
        Some(self.blocks.len() as u32 - 1)
    }

    fn release(&mut self, block: u32) {
        let users = &mut self.blocks[block as usize].users;
        *users -= 1;
        if *users == 0 {
            self.free.push(block);
        }
    }
}
