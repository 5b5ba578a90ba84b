//! Hearth's SIMD engine: kernels, and a forward pass over them (`engine.rs`). Pointers are byte addresses in the
//! module's memory; nothing is checked but what is said.
//!
//! Numbers stand for: weights 0 int4, 1 affine int4, 2 int8 (`layout.rs`); dot 0 plain, 1 i16, 2 i32 (`tile.rs`).

#![feature(asm_experimental_arch)]
#![cfg_attr(target_feature = "atomics", feature(stdarch_wasm_atomic_wait))]

mod activations;
mod attend_tiles;
mod attention;
mod attention_f32;
mod attention_int8;
mod attention_probe;
mod choose;
mod clock;
mod engine;
mod forward;
mod gemm_f32;
mod gemm_int4;
mod half;
mod kv;
mod lanes;
mod layout;
mod linear;
mod matmul;
mod measure;
mod memory;
mod model;
mod ops;
mod pack;
mod panel_output;
mod quantize;
mod ranking;
mod row;
mod scalar;
mod scalar_attention;
mod self_test;
mod table;
mod threads;
mod tile;
mod trial;

use std::slice::from_raw_parts_mut;

use activations::Activations;
use layout::{Weights, PANEL};
use matmul::Matrix;
use pack::{Packed, Source};
use tile::Dot;
use wasm_bindgen::prelude::wasm_bindgen;

/// Bytes of a packed matrix `[n, k]`, `k % 32 == 0`.
#[wasm_bindgen]
pub fn matrix_bytes(weights: u32, n: usize, k: usize) -> usize {
    Weights::from_index(weights).matrix_bytes(n, k)
}

/// Bytes of `m` quantized rows of `k` values.
#[wasm_bindgen]
pub fn activation_bytes(m: usize, k: usize) -> usize {
    Activations::bytes(m, k)
}

/// Packs a matrix `[n, k]`: u8 `[n, k/32, 16]` (int4) or `[n, k/32, 32]` (int8, zero point 128), f32 scales
/// `[n, k/32]`, and for affine int4 `zeros`: f32 `[n, k/32]`, or u8 `[n, ceil(k/64)]` where `packed_zeros`.
/// Returns how many scales and minima f16 had to round, -1 when it cannot hold one.
#[wasm_bindgen]
#[allow(clippy::too_many_arguments)]
pub fn pack(
    weights: u32,
    n: usize,
    k: usize,
    qweight: usize,
    scales: usize,
    zeros: usize,
    packed_zeros: bool,
    to: usize,
) -> i32 {
    let weights = Weights::from_index(weights);
    let (source, to) = unsafe {
        let source = Source::at(weights, n, k, qweight, scales, zeros, packed_zeros);
        (source, from_raw_parts_mut(to as *mut u8, weights.matrix_bytes(n, k)))
    };
    let mut packed = Packed::default();
    for (panel, to) in to.chunks_exact_mut(weights.panel_bytes(k)).enumerate() {
        packed += pack::pack_panel(weights, &source, panel * PANEL, to);
    }
    packed.report()
}

/// `pack`, without SIMD. Gives the same bytes.
#[wasm_bindgen]
#[allow(clippy::too_many_arguments)]
pub fn scalar_pack(
    weights: u32,
    n: usize,
    k: usize,
    qweight: usize,
    scales: usize,
    zeros: usize,
    packed_zeros: bool,
    to: usize,
) -> i32 {
    let weights = Weights::from_index(weights);
    unsafe {
        let source = Source::at(weights, n, k, qweight, scales, zeros, packed_zeros);
        scalar::pack(weights, &source, from_raw_parts_mut(to as *mut u8, weights.matrix_bytes(n, k))).report()
    }
}

/// Quantizes the tiles of f32 `[m, k]` that begin in rows `from..until`, in tiles of `tile` (1, 2) rows.
#[wasm_bindgen]
pub fn quantize_rows(x: usize, m: usize, k: usize, tile: usize, to: usize, from: usize, until: usize) {
    unsafe { quantize::quantize(x as *const f32, rows(to, m, k, tile), from, until) }
}

/// `result` f32 `[m, n]`, the columns of panels `from..until` of 16: quantized rows times the packed matrix.
#[wasm_bindgen]
#[allow(clippy::too_many_arguments)]
pub fn matmul(
    dot: u32,
    weights: u32,
    w: usize,
    n: usize,
    x: usize,
    m: usize,
    k: usize,
    tile: usize,
    expand: bool,
    result: usize,
    from: usize,
    until: usize,
) {
    let matrix = Matrix { weights: Weights::from_index(weights), w: w as *const u8, n };
    let x = rows(x, m, k, tile);
    unsafe { matmul::matmul(Dot::from_index(dot), matrix, x, result as *mut f32, from, until, expand) }
}

/// `result` f32 `[m, n]`: f32 rows `[m, k]`, not quantized, times the packed matrix; with `scalar` without SIMD.
#[wasm_bindgen]
#[allow(clippy::too_many_arguments)]
pub fn matmul_f32(weights: u32, w: usize, n: usize, x: usize, m: usize, k: usize, result: usize, scalar: bool) {
    let matrix = Matrix { weights: Weights::from_index(weights), w: w as *const u8, n };
    let (x, result) = (x as *const f32, result as *mut f32);
    unsafe {
        if scalar {
            return scalar::matmul_f32(matrix, x, m, k, result);
        }
        for panel in 0..n.div_ceil(PANEL) {
            gemm_f32::panel(matrix, x, m, k, result, panel);
        }
    }
}

/// `quantize_rows` of all rows, without SIMD. Gives the same bytes.
#[wasm_bindgen]
pub fn scalar_quantize_rows(x: usize, m: usize, k: usize, tile: usize, to: usize) {
    unsafe { scalar::quantize(x as *const f32, rows(to, m, k, tile)) }
}

/// `matmul` of all panels, without SIMD. Gives the same bits.
#[wasm_bindgen]
#[allow(clippy::too_many_arguments)]
pub fn scalar_matmul(weights: u32, w: usize, n: usize, x: usize, m: usize, k: usize, tile: usize, result: usize) {
    let matrix = Matrix { weights: Weights::from_index(weights), w: w as *const u8, n };
    unsafe { scalar::matmul(matrix, rows(x, m, k, tile), result as *mut f32) }
}

/// The dot that this engine is fastest with, of those that are exact for such weights.
#[wasm_bindgen]
pub fn choose_dot(weights: u32) -> u32 {
    choose::choose(Weights::from_index(weights)) as u32
}

/// Another `Dot` that is right for such weights and may be faster.
#[wasm_bindgen]
pub fn other_dot(weights: u32) -> Option<u32> {
    choose::other(Weights::from_index(weights)).map(|dot| dot as u32)
}

/// Whether `matmul` has a kernel for full tiles of that height.
#[wasm_bindgen]
pub fn has_kernel(dot: u32, weights: u32, tile: usize, expand: bool) -> bool {
    let find = if expand { tile::expanded } else { tile::direct };
    find(Weights::from_index(weights), Dot::from_index(dot), tile).is_some()
}

/// Whether the kernels of `dot` give the scalar product's bits on this engine.
#[wasm_bindgen]
pub fn self_test(dot: u32, weights: u32) -> bool {
    self_test::passes(Dot::from_index(dot), Weights::from_index(weights))
}

fn rows(base: usize, m: usize, k: usize, tile: usize) -> Activations {
    Activations { base: base as *mut u8, m, k, tile }
}
