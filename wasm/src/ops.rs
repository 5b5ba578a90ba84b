//! What lies between the matrix products, row by row: a row's result never depends on its neighbours.

use std::arch::wasm32::*;

use crate::lanes::{exp, sum_of_squares};

/// `out = x / rms(x) * weight`, https://arxiv.org/abs/1910.07467. Lengths are a multiple of 4.
pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + epsilon).sqrt();
    for i in 0..x.len() {
        out[i] = x[i] * scale * weight[i];
    }
}

/// `x += y`.
pub fn add(x: &mut [f32], y: &[f32]) {
    for (a, b) in x.iter_mut().zip(y) {
        *a += b;
    }
}

/// SwiGLU, https://arxiv.org/abs/2002.05202: `out = silu(gate) * up`, all of a length that is a multiple of 4.
pub fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == out.len() && up.len() == out.len());
    for i in (0..out.len()).step_by(4) {
        unsafe {
            let g = v128_load(gate.as_ptr().add(i).cast());
            let u = v128_load(up.as_ptr().add(i).cast());
            let sigmoid = f32x4_div(f32x4_splat(1.0), f32x4_add(f32x4_splat(1.0), exp(f32x4_neg(g))));
            v128_store(out.as_mut_ptr().add(i).cast(), f32x4_mul(f32x4_mul(g, sigmoid), u));
        }
    }
}

/// Rotary embedding of one head, halves rotated against each other, https://arxiv.org/abs/2104.09864.
/// `cos` and `sin` are `[rotary_dim / 2]`, of the head's position; what is beyond `rotary_dim` stays as it is.
pub fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = head[..2 * cos.len()].split_at_mut(cos.len());
    for i in 0..cos.len() {
        let (a, b) = (low[i], high[i]);
        low[i] = a * cos[i] - b * sin[i];
        high[i] = b * cos[i] + a * sin[i];
    }
}
