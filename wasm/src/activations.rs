//! How quantized activations lie in memory.
//!
//! Rows `[M, K]` are cut into tiles of `tile` rows (1 or 2); what is left over is a tile of 1. The rows of a tile lie
//! beside each other, four k at a time, so that a kernel gets all its rows with one load:
//!
//! ```text
//! q     i8   [tile][K/4][rows of the tile][4]    M*K bytes
//! xs    f32  [tile][K/32][rows of the tile]      scale of a block, times 2^112
//! xz    i32  [tile][K/32][rows of the tile]      -4 * sum of a block's q, as i16, twice
//! sums  f32  [tile][K/32][rows of the tile]      sum of a block's q
//! ```

use crate::layout::BLOCK;

/// Quantized rows at `base`.
#[derive(Clone, Copy)]
pub struct Activations {
    pub base: *mut u8,
    pub m: usize,
    pub k: usize,
    pub tile: usize,
}

/// Threads write different tiles, and read when all are written.
unsafe impl Sync for Activations {}

/// Pointers to the first block of a tile.
#[derive(Clone, Copy)]
pub struct TileRows {
    pub q: *mut i8,
    pub xs: *mut f32,
    pub xz: *mut i32,
    pub sums: *mut f32,
    /// Rows of this tile.
    pub height: usize,
}

impl Activations {
    pub const fn bytes(m: usize, k: usize) -> usize {
        m * k + 12 * m * (k / BLOCK)
    }

    /// The first row and the height of every tile, in order.
    pub fn tiles(self) -> impl Iterator<Item = (usize, usize)> {
        let mut row = 0;
        std::iter::from_fn(move || {
            let left = self.m - row;
            let height = left.min(self.tile);
            let this = (row, height);
            row += height;
            (height > 0).then_some(this)
        })
    }

    /// # Safety
    /// `base` has `bytes(m, k)` bytes, and `row`, `height` are a tile's.
    pub unsafe fn tile_rows(self, row: usize, height: usize) -> TileRows {
        let blocks = self.k / BLOCK;
        let numbers = self.base.add(self.m * self.k).cast::<u32>();
        let part = |i: usize| numbers.add((i * self.m + row) * blocks);
        TileRows {
            q: self.base.add(row * self.k).cast(),
            xs: part(0).cast(),
            xz: part(1).cast(),
            sums: part(2).cast(),
            height,
        }
    }
}

impl TileRows {
    /// The same rows from block `blocks` on.
    ///
    /// # Safety
    /// The rows have that many blocks.
    pub unsafe fn skip(self, blocks: usize) -> Self {
        let numbers = blocks * self.height;
        TileRows {
            q: self.q.add(BLOCK * numbers),
            xs: self.xs.add(numbers),
            xz: self.xz.add(numbers),
            sums: self.sums.add(numbers),
            height: self.height,
        }
    }
}
