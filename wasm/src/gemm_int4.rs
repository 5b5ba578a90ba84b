//! Many rows times an int4 panel: nibbles and f16 scales are expanded once per slice of K, then all tiles of rows read
//! bytes and f32 scales from the first-level cache.

use std::arch::wasm32::*;
use std::mem::MaybeUninit;

use crate::activations::Activations;
use crate::half::scaled_f32x4_from_f16x8;
use crate::layout::{Weights, BLOCK, PANEL};
use crate::tile::{self, Dot, Output};

/// Blocks of a slice: 7.5 KiB of scratch. From 8 to 48 makes no difference that could be measured.
const SLICE: usize = 12;

/// A block of 32 k of a panel: bytes in the order of an int8 block, then f32 scales and, if affine, f32 minima.
const fn expanded_bytes(weights: Weights) -> usize {
    PANEL * BLOCK + 4 * PANEL * if weights.affine() { 2 } else { 1 }
}

#[repr(align(64))]
struct Scratch(MaybeUninit<[u8; SLICE * expanded_bytes(Weights::Int4Affine)]>);

/// Writes the panel's product to `output` for all tiles of more than one row.
///
/// # Safety
/// As for `matmul`.
pub unsafe fn panel(dot: Dot, weights: Weights, w: *const u8, x: Activations, output: Output) {
    let mut scratch = Scratch(MaybeUninit::uninit());
    let scratch = scratch.0.as_mut_ptr().cast::<u8>();
    let blocks = x.k / BLOCK;
    for row in x.tiles().filter(|&(_, height)| height > 1).flat_map(|(row, height)| row..row + height) {
        output.clear(row);
    }
    for first in (0..blocks).step_by(SLICE) {
        let count = SLICE.min(blocks - first);
        for i in 0..count {
            let w = w.add((first + i) * weights.block_bytes());
            expand(weights, w, scratch.add(i * expanded_bytes(weights)));
        }
        for (row, height) in x.tiles().filter(|&(_, height)| height > 1) {
            let kernel = tile::expanded(weights, dot, height).expect("no kernel for this height");
            tile::run(kernel, scratch, x.tile_rows(row, height).skip(first), output.row(row), 1, count);
        }
    }
}

/// Expands one block.
unsafe fn expand(weights: Weights, w: *const u8, to: *mut u8) {
    let (from, bytes) = (w.cast::<v128>(), to.cast::<v128>());
    let low_bits = u8x16_splat(15);
    for half in 0..2 {
        for i in 0..4 {
            for c in 0..2 {
                let nibbles = v128_load(from.add(8 * half + 2 * i + c));
                let to = bytes.add(16 * half + 4 * i + c);
                v128_store(to, v128_and(nibbles, low_bits));
                v128_store(to.add(2), v128_and(u16x8_shr(nibbles, 4), low_bits));
            }
        }
    }
    let scales = w.add(weights.quant_bytes()).cast::<v128>();
    for i in 0..if weights.affine() { 8 } else { 4 } {
        v128_store(bytes.add(32 + i), scaled_f32x4_from_f16x8(v128_load(scales.add(i / 2)), i % 2 == 0));
    }
}
