//! f32 rows to int8, a scale per block of 32: `q = round(x * (127 / amax))` in -127..127, `scale = amax / 127`.
//!
//! A row is quantized alone, so that its numbers do not depend on the rows beside it. A block that holds an infinity
//! or NaN gets the scale NaN: so does every output that reads it. Blocks whose `127 / amax` is infinite (amax below
//! 3.8e-37) become zeros. Scales are times 2^112 and infinite from amax 8.3e6 on.

use std::arch::wasm32::*;

use crate::activations::{Activations, TileRows};
use crate::half::F16_SCALE;
use crate::lanes::{abs_max, rounded};
use crate::layout::BLOCK;

/// `amax` of a block to the factor of its values and its scale.
pub fn factors(amax: f32) -> (f32, f32) {
    let factor = 127.0 / amax;
    if amax.is_nan() || amax.is_infinite() {
        (0.0, f32::NAN)
    } else if factor.is_infinite() {
        (0.0, 0.0)
    } else {
        (factor, amax / 127.0 * F16_SCALE)
    }
}

/// -4 * sum as i16, twice. The sum of 32 int8 is at most 4064.
pub fn zero_start(sum: i32) -> i32 {
    let half = (-4 * sum) as u16 as u32;
    (half | half << 16) as i32
}

/// Quantizes `x` f32 `[M, K]`: the tiles whose first row is in `from..to`.
///
/// # Safety
/// `x` has M*K values and `to` the bytes of its shape.
pub unsafe fn quantize(x: *const f32, to: Activations, from: usize, until: usize) {
    for (row, height) in to.tiles().filter(|(row, _)| (from..until).contains(row)) {
        let rows = to.tile_rows(row, height);
        for r in 0..height {
            quantize_row(x.add((row + r) * to.k), to.k / BLOCK, rows, r);
        }
    }
}

unsafe fn quantize_row(x: *const f32, blocks: usize, to: TileRows, r: usize) {
    for block in 0..blocks {
        let x = std::slice::from_raw_parts(x.add(block * BLOCK), BLOCK);
        let (factor, scale) = factors(abs_max(x));
        let quants = |i: usize| rounded(v128_load(x.as_ptr().add(4 * i).cast()), factor);
        let mut sums = i16x8_splat(0);
        for half in 0..2 {
            let q: [v128; 4] = std::array::from_fn(|i| quants(4 * half + i));
            let pairs = [i16x8_narrow_i32x4(q[0], q[1]), i16x8_narrow_i32x4(q[2], q[3])];
            sums = i16x8_add(sums, i16x8_add(pairs[0], pairs[1]));
            let bytes = i8x16_narrow_i16x8(pairs[0], pairs[1]);
            let words = to.q.cast::<u32>().add((block * 8 + 4 * half) * to.height + r);
            if to.height == 1 {
                v128_store(words.cast(), bytes);
            } else {
                v128_store32_lane::<0>(bytes, words);
                v128_store32_lane::<1>(bytes, words.add(to.height));
                v128_store32_lane::<2>(bytes, words.add(2 * to.height));
                v128_store32_lane::<3>(bytes, words.add(3 * to.height));
            }
        }
        let at = block * to.height + r;
        let sum = i32x4_extadd_pairwise_i16x8(sums);
        let sum = i32x4_add(sum, i32x4_shuffle::<2, 3, 0, 1>(sum, sum));
        let sum = i32x4_extract_lane::<0>(sum) + i32x4_extract_lane::<1>(sum);
        to.xs.add(at).write(scale);
        to.xz.add(at).write(zero_start(sum));
        to.sums.add(at).write(sum as f32);
    }
}
