//! From the operands of a `MatMulNBits` with blocks of 32 to the layout of `layout.rs`.
//! https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits

use crate::half::{f16_from_f32, f16_to_f32};
use crate::layout::{byte_at, nibble_at, Weights, BLOCK, PANEL};

/// Where `q` stands for zero.
#[derive(Clone, Copy)]
pub enum ZeroPoints<'a> {
    /// The middle: 8.
    Absent,
    /// f32 `[N, K/32]`
    F32(&'a [f32]),
    /// u8 `[N, ceil(K/64)]`, two to a byte, the low half first.
    Packed(&'a [u8]),
}

impl ZeroPoints<'_> {
    fn at(self, row: usize, block: usize, blocks: usize) -> f32 {
        match self {
            ZeroPoints::Absent => 8.0,
            ZeroPoints::F32(values) => values[row * blocks + block],
            ZeroPoints::Packed(bytes) => (bytes[row * blocks.div_ceil(2) + block / 2] >> (block % 2 * 4) & 15) as f32,
        }
    }
}

/// What packing did to scales and minima, which become f16.
#[derive(Default)]
pub struct Packed {
    /// Those whose value changed.
    pub rounded: u32,
    /// Those that f16 cannot hold (above 65504 or not finite): the matrix is not usable.
    pub overflowed: u32,
}

impl Packed {
    /// How many were rounded; -1 when any overflowed.
    pub fn report(&self) -> i32 {
        if self.overflowed > 0 {
            -1
        } else {
            self.rounded as i32
        }
    }

    fn put(&mut self, to: &mut [u8], at: usize, value: f32) {
        let bits = f16_from_f32(value).unwrap_or_else(|| {
            self.overflowed += 1;
            0
        });
        self.rounded += (f16_to_f32(bits) != value) as u32;
        to[at..at + 2].copy_from_slice(&bits.to_le_bytes());
    }
}

/// `qweight` u8 `[N, K/32, 16]`, the low half first along K; `scales` f32 `[N, K/32]`.
/// Affine unless zero points are absent: `(q - zero) * scale` becomes `scale * q + min`, `min = -zero * scale`
/// rounded to f16. Lossless when scales and minima came from f16, as those of GGML's Q4_0 and Q4_1 do.
pub fn pack_int4(n: usize, k: usize, qweight: &[u8], scales: &[f32], zeros: ZeroPoints, to: &mut [u8]) -> Packed {
    let weights = if matches!(zeros, ZeroPoints::Absent) { Weights::Int4 } else { Weights::Int4Affine };
    let mut packed = Packed::default();
    let blocks = k / BLOCK;
    to.fill(0);
    for row in 0..n {
        let (panel, column) = (row / PANEL, row % PANEL);
        for block in 0..blocks {
            let at = panel * weights.panel_bytes(k) + block * weights.block_bytes();
            let to = &mut to[at..at + weights.block_bytes()];
            let source = &qweight[(row * blocks + block) * (BLOCK / 2)..][..BLOCK / 2];
            for i in 0..BLOCK {
                let (byte, shift) = nibble_at(column, i);
                to[byte] |= (source[i / 2] >> (i % 2 * 4) & 15) << shift;
            }
            let scale = scales[row * blocks + block];
            let at = weights.quant_bytes() + 2 * column;
            packed.put(to, at, scale);
            if weights.affine() {
                packed.put(to, at + 2 * PANEL, -zeros.at(row, block, blocks) * scale);
            }
        }
    }
    packed
}

/// `qweight` u8 `[N, K/32, 32]` with zero point 128; `scales` f32 `[N, K/32]`.
pub fn pack_int8(n: usize, k: usize, qweight: &[u8], scales: &[f32], to: &mut [u8]) -> Packed {
    let weights = Weights::Int8;
    let mut packed = Packed::default();
    let blocks = k / BLOCK;
    to.fill(0);
    for row in 0..n {
        let (panel, column) = (row / PANEL, row % PANEL);
        for block in 0..blocks {
            let at = panel * weights.panel_bytes(k) + block * weights.block_bytes();
            let to = &mut to[at..at + weights.block_bytes()];
            let source = &qweight[(row * blocks + block) * BLOCK..][..BLOCK];
            for (i, &q) in source.iter().enumerate() {
                to[byte_at(column, i)] = q;
            }
            packed.put(to, weights.quant_bytes() + 2 * column, scales[row * blocks + block]);
        }
    }
    packed
}
