//! Arithmetic on four f32 lanes. Every operation is IEEE's own, so all builds and engines give the same bits.

use std::arch::wasm32::*;

/// Sum of the lanes: (0 + 1) + (2 + 3).
#[inline]
pub fn sum4(v: v128) -> f32 {
    (f32x4_extract_lane::<0>(v) + f32x4_extract_lane::<1>(v))
        + (f32x4_extract_lane::<2>(v) + f32x4_extract_lane::<3>(v))
}

/// Sum of the squares, lane `i % 4` first. The length is a multiple of 4.
pub fn sum_of_squares(x: &[f32]) -> f32 {
    let mut sum = f32x4_splat(0.0);
    for four in x.chunks_exact(4) {
        let v = unsafe { v128_load(four.as_ptr().cast()) };
        sum = f32x4_add(sum, f32x4_mul(v, v));
    }
    sum4(sum)
}

/// The largest magnitude, NaN where there is one. The length is a multiple of 4.
#[inline]
pub fn abs_max(x: &[f32]) -> f32 {
    // Without their sign, floats are in the order of their bits as integers, infinity and NaN last: an instruction
    // where f32x4.max takes several.
    let magnitudes = x.chunks_exact(4).map(|four| f32x4_abs(unsafe { v128_load(four.as_ptr().cast()) }));
    let max = magnitudes.fold(i32x4_splat(0), |max, v| i32x4_max(max, v));
    let max = i32x4_max(max, i32x4_shuffle::<2, 3, 0, 1>(max, max));
    f32x4_extract_lane::<0>(i32x4_max(max, i32x4_shuffle::<1, 0, 3, 2>(max, max)))
}

/// Added to a number between -2^22 and 2^22, it rounds that to the nearest integer, halves to even, and leaves it in the
/// lowest bits of the sum: two instructions, where `nearest` and the saturating conversion take up to ten.
const ROUND: f32 = 12_582_912.0;

/// The nearest integers, halves to even, of numbers between -2^22 and 2^22.
#[inline]
fn nearest(v: v128) -> v128 {
    i32x4_sub(f32x4_add(v, f32x4_splat(ROUND)), f32x4_splat(ROUND))
}

/// `v * factor` as the nearest integers, whose magnitude the factor keeps below 2^22; zeros where it is 0, since an
/// infinity times 0 would be NaN.
#[inline]
pub fn rounded(v: v128, factor: f32) -> v128 {
    if factor == 0.0 {
        return i32x4_splat(0);
    }
    nearest(f32x4_mul(v, f32x4_splat(factor)))
}

/// `e^x` to 2 ulp, 0 below -87: Cephes' expf, a polynomial over `[-ln2/2, ln2/2]`, https://www.netlib.org/cephes/.
/// One definition, because libm's differ in their last bits.
#[inline]
pub fn exp(x: v128) -> v128 {
    let clamped = f32x4_pmax(f32x4_splat(-87.0), f32x4_pmin(f32x4_splat(88.0), x));
    let n = f32x4_nearest(f32x4_mul(clamped, f32x4_splat(std::f32::consts::LOG2_E)));
    let r = f32x4_sub(clamped, f32x4_mul(n, f32x4_splat(0.693_359_4)));
    let r = f32x4_add(r, f32x4_mul(n, f32x4_splat(2.121_944_4e-4)));
    let coefficients = [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    let p =
        coefficients.into_iter().fold(f32x4_splat(1.987_569_1e-4), |p, c| f32x4_add(f32x4_mul(p, r), f32x4_splat(c)));
    let y = f32x4_add(f32x4_add(f32x4_mul(f32x4_mul(p, r), r), r), f32x4_splat(1.0));
    let power = i32x4_shl(i32x4_add(i32x4_trunc_sat_f32x4(n), i32x4_splat(127)), 23);
    let above = f32x4_ge(x, f32x4_splat(-87.0));
    v128_and(f32x4_mul(y, power), above)
}

/// `exp` of one number.
pub fn exp1(x: f32) -> f32 {
    f32x4_extract_lane::<0>(exp(f32x4_splat(x)))
}
