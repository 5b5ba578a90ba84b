//! Whether this engine computes what the kernels need: a small product, compared with the scalar one bit by bit.

use crate::activations::Activations;
use crate::layout::{Weights, BLOCK, PANEL};
use crate::matmul::{matmul, Matrix};
use crate::tile::{self, Dot};
use crate::{quantize, scalar};

/// Two panels, so that the second is not full, and more blocks than a slice of the expanded form holds.
const N: usize = PANEL + 3;
const K: usize = 14 * BLOCK;
const M: usize = 7;

/// True when every kernel of `dot` for such weights gives the scalar product's bits.
pub fn passes(dot: Dot, weights: Weights) -> bool {
    let mut seed = 1u32;
    let mut random = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 16) as u8
    };
    let mut w: Vec<u8> = (0..weights.matrix_bytes(N, K)).map(|_| random()).collect();
    for block in w.chunks_exact_mut(weights.block_bytes()) {
        for high in block[weights.quant_bytes()..].iter_mut().skip(1).step_by(2) {
            *high &= 0xbf; // exponents below 16: finite scales
        }
    }
    let x: Vec<f32> = (0..M * K).map(|_| random() as f32 - 127.5).collect();
    let matrix = Matrix { weights, w: w.as_ptr(), n: N };
    [(1, false), (2, false), (2, true)].into_iter().all(|(tile, expand)| {
        let find = if expand { tile::expanded } else { tile::direct };
        if find(weights, dot, tile).is_none() {
            return true;
        }
        // u32 for its alignment.
        let mut rows = vec![0u32; Activations::bytes(M, K) / 4];
        let rows = Activations { base: rows.as_mut_ptr().cast(), m: M, k: K, tile };
        let (mut got, mut wanted) = (vec![0.0f32; M * N], vec![0.0f32; M * N]);
        unsafe {
            quantize::quantize(x.as_ptr(), rows, 0, M);
            matmul(dot, matrix, rows, got.as_mut_ptr(), 0, N.div_ceil(PANEL), expand);
            scalar::matmul(matrix, rows, wanted.as_mut_ptr());
        }
        got.iter().zip(&wanted).all(|(a, b)| a.to_bits() == b.to_bits())
    })
}
