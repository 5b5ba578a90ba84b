//! What `bench/` times on all threads: a product as a pass runs it, and a loop that only reads.

use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use wasm_bindgen::prelude::wasm_bindgen;

use crate::activations::Activations;
use crate::layout::{Weights, PANEL};
use crate::matmul::{matmul, Matrix};
use crate::memory::read_memory;
use crate::threads::{for_parts, Shared};
use crate::tile::Dot;

/// `matmul` of `lib.rs`, all panels, shared among the threads.
#[wasm_bindgen]
#[allow(clippy::too_many_arguments)]
pub fn matmul_shared(
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
) {
    let matrix = Matrix { weights: Weights::from_index(weights), w: w as *const u8, n };
    let x = Activations { base: x as *mut u8, m, k, tile };
    let result = Shared::new(unsafe { std::slice::from_raw_parts_mut(result as *mut f32, m * n) });
    for_parts(n.div_ceil(PANEL), 1, |_, part| unsafe {
        matmul(Dot::from_index(dot), matrix, x, result.pointer(), part.start, part.end, expand)
    });
}

/// `read_memory` of `bytes`, a multiple of 128, shared among the threads.
#[wasm_bindgen]
pub fn read_shared(pointer: usize, bytes: usize) -> i32 {
    let sum = AtomicI32::new(0);
    for_parts(bytes / 128, 1, |_, part| {
        sum.fetch_add(read_memory(pointer + 128 * part.start, 128 * part.len()), Relaxed);
    });
    sum.into_inner()
}
