//! f32 rows times a packed matrix, exactly as wide as f32: for parity and inspection. A block of weights is expanded once
//! for all rows; a row adds up its products in the order of k, whatever stands beside it.

use std::arch::wasm32::*;

use crate::half::{scaled_f32x4_from_f16x8, F16_SCALE};
use crate::layout::{Weights, BLOCK, PANEL};
use crate::matmul::Matrix;
use crate::panel_output::PanelOutput;

/// Vectors of a row of an expanded block.
const WIDTH: usize = PANEL / 4;

/// `result` f32 `[m, n]`, the columns of `panel`: `x` f32 `[m, k]` times the matrix.
///
/// # Safety
/// All hold what their shapes say.
pub unsafe fn panel(matrix: Matrix, x: *const f32, m: usize, k: usize, result: *mut f32, panel: usize) {
    let Matrix { weights, w, n } = matrix;
    let w = w.add(panel * weights.panel_bytes(k));
    let output = PanelOutput::new(result, m, n, panel);
    for row in 0..m {
        output.output().clear(row);
    }
    let mut expanded = [f32x4_splat(0.0); BLOCK * WIDTH];
    for block in 0..k / BLOCK {
        expand(weights, w.add(block * weights.block_bytes()), &mut expanded);
        for row in 0..m {
            let x = x.add(row * k + block * BLOCK);
            let to = output.output().row(row).c.cast::<v128>();
            let mut sums: [v128; WIDTH] = std::array::from_fn(|i| v128_load(to.add(i)));
            for (i, weights) in expanded.chunks_exact(WIDTH).enumerate() {
                let x = v128_load32_splat(x.add(i).cast());
                for (sum, &weight) in sums.iter_mut().zip(weights) {
                    *sum = f32x4_add(*sum, f32x4_mul(x, weight));
                }
            }
            for (i, &sum) in sums.iter().enumerate() {
                v128_store(to.add(i), sum);
            }
        }
    }
    output.finish(result, n, panel);
}

/// A block's weights to f32 `[32 k][16 outputs]`.
unsafe fn expand(weights: Weights, w: *const u8, to: &mut [v128; BLOCK * WIDTH]) {
    let factors = |at: usize, outputs: usize| {
        let halves = v128_load(w.add(at).cast::<v128>().add(outputs / 2));
        f32x4_mul(scaled_f32x4_from_f16x8(halves, outputs % 2 == 0), f32x4_splat(F16_SCALE))
    };
    let (bits, middle) = match weights {
        Weights::Int4 => (4, 8),
        Weights::Int4Affine => (4, 0),
        Weights::Int8 => (8, 128),
    };
    let mask = u32x4_splat((1 << bits) - 1);
    // Vectors of four outputs that hold `8 / bits` times four k.
    let groups = BLOCK * bits / 32;
    for outputs in 0..WIDTH {
        let scales = weights.quant_bytes();
        let scale = factors(scales, outputs);
        let minimum = if weights.affine() { factors(scales + 2 * PANEL, outputs) } else { f32x4_splat(0.0) };
        for group in 0..groups {
            let quants = v128_load(w.cast::<v128>().add((outputs / 2 * groups + group) * 2 + outputs % 2));
            for part in 0..8 / bits {
                for j in 0..4 {
                    let q = v128_and(u32x4_shr(quants, (8 * j + bits * part) as u32), mask);
                    let weight = f32x4_mul(f32x4_convert_i32x4(i32x4_sub(q, i32x4_splat(middle))), scale);
                    let weight = if weights.affine() { f32x4_add(weight, minimum) } else { weight };
                    to[((group * (8 / bits) + part) * 4 + j) * WIDTH + outputs] = weight;
                }
            }
        }
    }
}
