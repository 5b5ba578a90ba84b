//! How weights lie in memory: one layout for matrix-vector and matrix-matrix products, int4 and int8.
//!
//! A matrix `[N, K]` (N outputs, K inputs) is cut into panels of 16 columns of the product, that is 16 rows of the
//! matrix, and along K into blocks of 32. Panels follow each other, and in a panel its blocks: a product reads its
//! weights as one stream. The last panel is filled with zeros. `K % 32 == 0`.
//!
//! ```text
//!             block 0           block 1                    block K/32-1
//! panel 0   [ quants | d | m ][ quants | d | m ] ... [ quants | d | m ]     outputs 0..15
//! panel 1   [ quants | d | m ] ...                                          outputs 16..31
//!
//! d  16 f16, the scales of the block's 16 outputs, 0 4 1 5 2 6 3 7 8 12 ..  32 bytes
//! m  16 f16, their minima in that order; only in affine int4                32 bytes
//! int4 block: 256 + 32 = 288 bytes, affine 320; int8 block: 512 + 32 = 544 bytes
//! ```
//!
//! A vector of 16 bytes belongs to four outputs, a dword each, so that a dot product of bytes adds up four k of an
//! output in its own lane and nothing is summed across lanes. The outputs' halves (0..7, 8..15) come first, so that
//! a kernel may also walk 8 outputs:
//!
//! ```text
//! int4  [half h: 2][i: 4][c: 2][16 bytes]: outputs 8h+4c .. 8h+4c+3
//!       byte j of a dword: low four bits k = 8i+j, high four bits k = 8i+4+j;   q in 0..15
//! int8  [half h: 2][g: 8][c: 2][16 bytes]: outputs 8h+4c .. 8h+4c+3
//!       byte j of a dword: k = 4g+j;                                            q in 0..255
//! ```
//!
//! A weight is `d * (q - 8)`, `d * q + m` (affine) or `d * (q - 128)` (int8).

/// Outputs of a panel.
pub const PANEL: usize = 16;
/// Inputs of a block.
pub const BLOCK: usize = 32;

/// What the weights of a matrix are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    Int4,
    Int4Affine,
    Int8,
}

impl Weights {
    /// From the number that the exported functions take: 0, 1, 2.
    pub fn from_index(index: u32) -> Self {
        [Weights::Int4, Weights::Int4Affine, Weights::Int8][index as usize]
    }

    pub const fn affine(self) -> bool {
        matches!(self, Weights::Int4Affine)
    }

    /// Bytes of a block before its scales.
    pub const fn quant_bytes(self) -> usize {
        match self {
            Weights::Int8 => PANEL * BLOCK,
            _ => PANEL * BLOCK / 2,
        }
    }

    pub const fn block_bytes(self) -> usize {
        self.quant_bytes() + 2 * PANEL * if self.affine() { 2 } else { 1 }
    }

    /// Bytes of a panel of K inputs.
    pub const fn panel_bytes(self, k: usize) -> usize {
        k / BLOCK * self.block_bytes()
    }

    /// Bytes of a matrix `[n, k]`.
    pub const fn matrix_bytes(self, n: usize, k: usize) -> usize {
        n.div_ceil(PANEL) * self.panel_bytes(k)
    }
}

/// Where the f16 of output `column` lies among a block's scales, or its minima. A vector of eight has those of two
/// vectors of outputs, one in the low and one in the high half of each dword.
pub const fn factor_at(column: usize) -> usize {
    let (half, c, lane) = (column / 8, column / 4 % 2, column % 4);
    16 * half + 4 * lane + 2 * c
}

/// Where `q` of output `column` (0..15) and input `k` (0..31) lies in an int4 block: the byte, and the bits' shift.
pub const fn nibble_at(column: usize, k: usize) -> (usize, usize) {
    let (half, c, lane) = (column / 8, column / 4 % 2, column % 4);
    (128 * half + 32 * (k / 8) + 16 * c + 4 * lane + k % 4, k / 4 % 2 * 4)
}

/// The same for int8, and for int4 that `gemm_int4` expanded to bytes.
pub const fn byte_at(column: usize, k: usize) -> usize {
    let (half, c, lane) = (column / 8, column / 4 % 2, column % 4);
    256 * half + 32 * (k / 4) + 16 * c + 4 * lane + k % 4
}
