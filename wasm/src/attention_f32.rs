//! The products of attention over f32 keys and values, for several queries at a time: how many changes no bits.

use std::arch::wasm32::*;

use crate::kv::{BLOCK_TOKENS, STRIP};

/// A query as `scores` takes it: times `1 / sqrt(head_dim)`.
///
/// # Safety
/// `to` is f32 of `query`'s length.
pub unsafe fn prepare(query: &[f32], to: *mut f32) {
    let scale = 1.0 / (query.len() as f32).sqrt();
    for (d, value) in query.iter().enumerate() {
        to.add(d).write(value * scale);
    }
}

/// Scores of `count` queries f32 `[count, dim]` with a block's keys, to f32 `[count]` rows of 16, `stride` apart.
///
/// # Safety
/// As the shapes say.
pub unsafe fn scores(count: usize, queries: *const f32, dim: usize, keys: &[u8], to: *mut f32, stride: usize) {
    let keys = keys.as_ptr().cast::<f32>();
    let mut i = 0;
    while i < count {
        let (q, to) = (queries.add(i * dim), to.add(i * stride));
        // Sums and keys have to fit in 16 registers.
        i += match count - i {
            1 => dots::<1, 4>(q, dim, keys, to, stride),
            2 => dots::<2, 4>(q, dim, keys, to, stride),
            3 => {
                dots::<3, 2>(q, dim, keys, to, stride);
                dots::<3, 2>(q, dim, keys.add(8), to.add(8), stride)
            }
            _ => {
                dots::<4, 2>(q, dim, keys, to, stride);
                dots::<4, 2>(q, dim, keys.add(8), to.add(8), stride)
            }
        };
    }
}

/// `R` queries with `4 * T` tokens. Returns `R`.
#[inline(always)]
unsafe fn dots<const R: usize, const T: usize>(
    queries: *const f32,
    dim: usize,
    keys: *const f32,
    to: *mut f32,
    stride: usize,
) -> usize {
    let mut sums = [[f32x4_splat(0.0); T]; R];
    for d in 0..dim {
        let keys: [v128; T] = std::array::from_fn(|t| v128_load(keys.add(d * BLOCK_TOKENS + 4 * t).cast()));
        for (r, sums) in sums.iter_mut().enumerate() {
            let q = v128_load32_splat(queries.add(r * dim + d).cast());
            for t in 0..T {
                sums[t] = f32x4_add(sums[t], f32x4_mul(q, keys[t]));
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (t, &sum) in sums.iter().enumerate() {
            v128_store(to.add(r * stride + 4 * t).cast(), sum);
        }
    }
    R
}

/// Adds the first `tokens` values of a block to `sums` f32 `[count, dim]`, by weights f32 `[count]` rows of 16.
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
    let values = values.as_ptr().cast::<f32>();
    let mut i = 0;
    while i < count {
        let (w, to) = (weights.add(i * stride), sums.as_mut_ptr().add(i * dim));
        i += match count - i {
            1 => columns::<1, 8>(w, stride, values, tokens, dim, to),
            2 => columns::<2, 4>(w, stride, values, tokens, dim, to),
            3 => columns::<3, 2>(w, stride, values, tokens, dim, to),
            _ => columns::<4, 2>(w, stride, values, tokens, dim, to),
        };
    }
}

/// `R` queries, `4 * C` dimensions at a time. Returns `R`.
#[inline(always)]
unsafe fn columns<const R: usize, const C: usize>(
    weights: *const f32,
    stride: usize,
    values: *const f32,
    tokens: usize,
    dim: usize,
    sums: *mut f32,
) -> usize {
    for strip in (0..dim).step_by(STRIP) {
        let width = STRIP.min(dim - strip);
        let (values, sums) = (values.add(strip * BLOCK_TOKENS), sums.add(strip));
        let mut d = 0;
        while d + 4 * C <= width {
            add::<R, C>(weights, stride, values.add(d), width, tokens, dim, sums.add(d));
            d += 4 * C;
        }
        while d < width {
            add::<R, 1>(weights, stride, values.add(d), width, tokens, dim, sums.add(d));
            d += 4;
        }
    }
    R
}

/// One strip's values, `width` dimensions apart from token to token.
#[inline(always)]
unsafe fn add<const R: usize, const C: usize>(
    weights: *const f32,
    stride: usize,
    values: *const f32,
    width: usize,
    tokens: usize,
    dim: usize,
    to: *mut f32,
) {
    let at = |r: usize, c: usize| to.add(r * dim + 4 * c).cast::<v128>();
    let mut sums: [[v128; C]; R] = std::array::from_fn(|r| std::array::from_fn(|c| v128_load(at(r, c))));
    for token in 0..tokens {
        let values: [v128; C] = std::array::from_fn(|c| v128_load(values.add(token * width + 4 * c).cast()));
        for (r, sums) in sums.iter_mut().enumerate() {
            let weight = v128_load32_splat(weights.add(r * stride + token).cast());
            for c in 0..C {
                sums[c] = f32x4_add(sums[c], f32x4_mul(weight, values[c]));
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (c, &sum) in sums.iter().enumerate() {
            v128_store(at(r, c), sum);
        }
    }
}
