//! The products of attention over int8 keys and values, for several queries at a time: how many changes no bits.
//!
//! Queries and weights are rounded to i16, products of pairs add up in i32, exactly. A block's weights share a scale, so
//! a block ends in f32.

use std::arch::wasm32::*;

use crate::attention::QUERIES;
use crate::kv::{BLOCK_TOKENS, STRIP};
use crate::lanes::{abs_max, rounded};

/// The largest i16 that is used. Sums stay below 2^31 for a head of up to 512.
pub const I16_MAX: f32 = 32767.0;

/// A query as `scores` takes it, i16. Returns its scale, `1 / sqrt(head_dim)` included; NaN where the query is.
///
/// # Safety
/// `to` is i16 of `query`'s length.
pub unsafe fn prepare(query: &[f32], to: *mut i16) -> f32 {
    let amax = abs_max(query);
    let factor = I16_MAX / amax;
    let factor = if factor.is_finite() { factor } else { 0.0 };
    for d in (0..query.len()).step_by(4) {
        let q = rounded(v128_load(query.as_ptr().add(d).cast()), factor);
        v128_store64_lane::<0>(i16x8_narrow_i32x4(q, q), to.add(d).cast());
    }
    amax / I16_MAX / (query.len() as f32).sqrt()
}

/// Scores of `count` queries i16 `[count, dim]` with a block's keys, to f32 `[count]` rows of 16, `stride` apart.
///
/// # Safety
/// As the shapes say.
pub unsafe fn scores(
    count: usize,
    queries: *const i16,
    scales: &[f32],
    dim: usize,
    keys: &[u8],
    to: *mut f32,
    stride: usize,
) {
    let key_scales = keys.as_ptr().add(BLOCK_TOKENS * dim).cast::<f32>();
    let keys = keys.as_ptr().cast::<i8>();
    let mut i = 0;
    while i < count {
        let (q, s, to) = (queries.add(i * dim), scales.as_ptr().add(i), to.add(i * stride));
        i += match count - i {
            1 => dots::<1, 4>(q, s, dim, keys, key_scales, to, stride),
            2 => dots::<2, 4>(q, s, dim, keys, key_scales, to, stride),
            3 => {
                dots::<3, 2>(q, s, dim, keys, key_scales, to, stride);
                dots::<3, 2>(q, s, dim, keys.add(16), key_scales.add(8), to.add(8), stride)
            }
            _ => {
                dots::<4, 2>(q, s, dim, keys, key_scales, to, stride);
                dots::<4, 2>(q, s, dim, keys.add(16), key_scales.add(8), to.add(8), stride)
            }
        };
    }
}

/// `R` queries with `4 * T` tokens. Returns `R`.
#[inline(always)]
unsafe fn dots<const R: usize, const T: usize>(
    queries: *const i16,
    scales: *const f32,
    dim: usize,
    keys: *const i8,
    key_scales: *const f32,
    to: *mut f32,
    stride: usize,
) -> usize {
    let mut sums = [[i32x4_splat(0); T]; R];
    for pair in 0..dim / 2 {
        let keys: [v128; T] =
            std::array::from_fn(|t| i16x8_load_extend_i8x8(keys.add(pair * 2 * BLOCK_TOKENS + 8 * t)));
        for (r, sums) in sums.iter_mut().enumerate() {
            let q = v128_load32_splat(queries.add(r * dim + 2 * pair).cast());
            for t in 0..T {
                sums[t] = i32x4_add(sums[t], i32x4_dot_i16x8(q, keys[t]));
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let scale = v128_load32_splat(scales.add(r).cast());
        for (t, &sum) in sums.iter().enumerate() {
            let scales = v128_load(key_scales.add(4 * t).cast());
            let score = f32x4_mul(f32x4_mul(f32x4_convert_i32x4(sum), scales), scale);
            v128_store(to.add(r * stride + 4 * t).cast(), score);
        }
    }
    R
}

/// A block's weights of one query, times the values' scales.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Weights {
    quants: [i16; BLOCK_TOKENS],
    scale: f32,
}

/// Adds the first `tokens` values of a block to `sums` f32 `[count, dim]`, by weights f32 `[count]` rows of 16, which are
/// 0 for the others.
///
/// # Safety
/// As the shapes say.
pub unsafe fn add_values(
    count: usize,
    weights: *const f32,
    stride: usize,
    values: &[u8],
    tokens: usize,
    dim: usize,
    sums: &mut [f32],
) {
    let scales = values.as_ptr().add(BLOCK_TOKENS * dim).cast::<f32>();
    let values = values.as_ptr().cast::<i8>();
    let mut quantized = [Weights { quants: [0; BLOCK_TOKENS], scale: 0.0 }; QUERIES];
    for (i, to) in quantized[..count].iter_mut().enumerate() {
        quantize(weights.add(i * stride), scales, to);
    }
    let pairs = tokens.div_ceil(2);
    let mut i = 0;
    while i < count {
        let (w, to) = (quantized.as_ptr().add(i), sums.as_mut_ptr().add(i * dim));
        i += match count - i {
            1 => columns::<1, 8>(w, values, pairs, dim, to),
            2 => columns::<2, 4>(w, values, pairs, dim, to),
            3 => columns::<3, 2>(w, values, pairs, dim, to),
            _ => columns::<4, 2>(w, values, pairs, dim, to),
        };
    }
}

/// 16 weights times the values' scales, to i16 with one scale.
#[inline(always)]
unsafe fn quantize(weights: *const f32, scales: *const f32, to: &mut Weights) {
    let zero = f32x4_splat(0.0);
    let products: [v128; 4] = std::array::from_fn(|i| {
        let weight = v128_load(weights.add(4 * i).cast());
        // The scale of a token that does not count may be anything.
        v128_and(f32x4_mul(weight, v128_load(scales.add(4 * i).cast())), f32x4_gt(weight, zero))
    });
    // f32x4.max hands NaN on.
    let max = products.iter().fold(zero, |max, &v| f32x4_max(max, v));
    let max = f32x4_max(max, i32x4_shuffle::<2, 3, 0, 1>(max, max));
    let max = f32x4_extract_lane::<0>(f32x4_max(max, i32x4_shuffle::<1, 0, 3, 2>(max, max)));
    let factor = I16_MAX / max;
    let factor = if factor.is_finite() { factor } else { 0.0 };
    let quants = products.map(|four| rounded(four, factor));
    let quants_at = to.quants.as_mut_ptr().cast::<v128>();
    v128_store(quants_at, i16x8_narrow_i32x4(quants[0], quants[1]));
    v128_store(quants_at.add(1), i16x8_narrow_i32x4(quants[2], quants[3]));
    to.scale = max / I16_MAX;
}

/// `R` queries, `4 * C` dimensions at a time. Returns `R`.
#[inline(always)]
unsafe fn columns<const R: usize, const C: usize>(
    weights: *const Weights,
    values: *const i8,
    pairs: usize,
    dim: usize,
    sums: *mut f32,
) -> usize {
    for strip in (0..dim).step_by(STRIP) {
        let width = STRIP.min(dim - strip);
        let (values, sums) = (values.add(strip * BLOCK_TOKENS), sums.add(strip));
        let mut d = 0;
        while d + 4 * C <= width {
            add::<R, C>(weights, values.add(2 * d), width, pairs, dim, sums.add(d));
            d += 4 * C;
        }
        while d < width {
            add::<R, 1>(weights, values.add(2 * d), width, pairs, dim, sums.add(d));
            d += 4;
        }
    }
    R
}

/// One strip's values, `width` dimensions apart from token to token.
#[inline(always)]
unsafe fn add<const R: usize, const C: usize>(
    weights: *const Weights,
    values: *const i8,
    width: usize,
    pairs: usize,
    dim: usize,
    to: *mut f32,
) {
    let mut sums = [[i32x4_splat(0); C]; R];
    for pair in 0..pairs {
        let values: [v128; C] = std::array::from_fn(|c| i16x8_load_extend_i8x8(values.add(pair * 2 * width + 8 * c)));
        for (r, sums) in sums.iter_mut().enumerate() {
            let weight = v128_load32_splat((*weights.add(r)).quants.as_ptr().add(2 * pair).cast());
            for c in 0..C {
                sums[c] = i32x4_add(sums[c], i32x4_dot_i16x8(weight, values[c]));
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let scale = f32x4_splat((*weights.add(r)).scale);
        for (c, &sum) in sums.iter().enumerate() {
            let to = to.add(r * dim + 4 * c).cast::<v128>();
            v128_store(to, f32x4_add(v128_load(to), f32x4_mul(f32x4_convert_i32x4(sum), scale)));
        }
    }
}
