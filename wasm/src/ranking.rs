//! The largest of a position's logits, and the sum that makes them probabilities: what choosing a token mostly needs.

use std::arch::wasm32::*;

use crate::lanes::exp;
use crate::threads::{for_parts, Shared};

/// The best logits of one position, best first; of equal ones the lower id first. NaN counts as `-inf`.
pub struct Ranking {
    pub ids: Vec<u32>,
    pub logits: Vec<f32>,
}

fn rank(logit: f32) -> f32 {
    if logit.is_nan() {
        f32::NEG_INFINITY
    } else {
        logit
    }
}

impl Ranking {
    /// With room for `k` logits.
    pub fn new(k: usize) -> Self {
        Ranking { ids: Vec::with_capacity(k), logits: Vec::with_capacity(k) }
    }

    /// Ranks the `k` largest of `logits`, or all where there are fewer.
    pub fn fill(&mut self, logits: &[f32], k: usize) {
        self.ids.clear();
        self.logits.clear();
        let k = k.min(logits.len());
        if k == 0 {
            return;
        }
        for (part, sixteen) in logits.chunks(16).enumerate() {
            // Nearly all of a vocabulary is below the worst of the best.
            if self.ids.len() == k && sixteen.len() == 16 && !any_above(sixteen, rank(self.logits[k - 1])) {
                continue;
            }
            for (i, &logit) in sixteen.iter().enumerate() {
                self.offer((16 * part + i) as u32, logit, k);
            }
        }
    }

    /// Ids come in order, so an equal logit is the worse one.
    fn offer(&mut self, id: u32, logit: f32, k: usize) {
        if self.ids.len() == k {
            if rank(logit) <= rank(self.logits[k - 1]) {
                return;
            }
            self.ids.pop();
            self.logits.pop();
        }
        let at = self.logits.partition_point(|&better| rank(better) >= rank(logit));
        self.ids.insert(at, id);
        self.logits.insert(at, logit);
    }
}

fn any_above(sixteen: &[f32], threshold: f32) -> bool {
    let threshold = f32x4_splat(threshold);
    let lanes = |i: usize| unsafe { v128_load(sixteen.as_ptr().add(4 * i).cast()) };
    v128_any_true((0..4).fold(i32x4_splat(0), |any, i| v128_or(any, f32x4_gt(lanes(i), threshold))))
}

/// Logits whose powers one thread adds up at a time: how many threads there are changes no bits.
const SUMMED_TOGETHER: usize = 4096;

/// Natural logarithm of the sum of `exp(logits)`, whose largest is `max`. `e^x` is f32's, the sum f64.
pub fn log_sum_exp(logits: &[f32], max: f32) -> f64 {
    if !max.is_finite() {
        return if max == f32::INFINITY { f64::INFINITY } else { f64::NEG_INFINITY };
    }
    let parts: Vec<&[f32]> = logits.chunks(SUMMED_TOGETHER).collect();
    let mut sums: Vec<f64> = vec![0.0; parts.len()];
    let shared = Shared::new(&mut sums);
    for_parts(parts.len(), 1, |_, range| {
        for part in range {
            let sum = unsafe { &mut shared.part(part..part + 1)[0] };
            *sum = sum_exp(parts[part], max);
        }
    });
    max as f64 + sums.iter().sum::<f64>().ln()
}

/// Sum of `exp(logits - max)`.
fn sum_exp(logits: &[f32], max: f32) -> f64 {
    let max = f32x4_splat(max);
    let mut sums = f64x2_splat(0.0);
    let fours = logits.chunks_exact(4);
    let power = |logit: f32| exp(f32x4_sub(f32x4_splat(logit), max));
    let rest: f64 = fours.remainder().iter().map(|&logit| f32x4_extract_lane::<0>(power(logit)) as f64).sum();
    for four in fours {
        let powers = exp(f32x4_sub(unsafe { v128_load(four.as_ptr().cast()) }, max));
        let high = i32x4_shuffle::<2, 3, 0, 1>(powers, powers);
        sums = f64x2_add(sums, f64x2_add(f64x2_promote_low_f32x4(powers), f64x2_promote_low_f32x4(high)));
    }
    f64x2_extract_lane::<0>(sums) + f64x2_extract_lane::<1>(sums) + rest
}
