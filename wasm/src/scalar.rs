//! The same products one element at a time: the definition that the kernels are tested against, bit for bit.
//!
//! Integers are exact in both; every f32 operation is here once, in the kernels' order.

use crate::activations::Activations;
use crate::half::{f16_from_f32, f16_to_f32, f16_to_scaled_f32};
use crate::layout::{byte_at, factor_at, nibble_at, Weights, BLOCK, PANEL};
use crate::matmul::Matrix;
use crate::pack::{Packed, Source};
use crate::quantize::{factors, zero_start};

/// As `pack::pack_panel`, all panels.
pub fn pack(weights: Weights, source: &Source, to: &mut [u8]) -> Packed {
    let mut packed = Packed::default();
    let mut put = |to: &mut [u8], at: usize, value: f32| {
        let bits = f16_from_f32(value).unwrap_or_else(|| {
            packed.overflowed += 1;
            0
        });
        packed.rounded += (f16_to_f32(bits) != value) as u32;
        to[at..at + 2].copy_from_slice(&bits.to_le_bytes());
    };
    let blocks = source.k / BLOCK;
    to.fill(0);
    for row in 0..source.rows {
        let (panel, column) = (row / PANEL, row % PANEL);
        for block in 0..blocks {
            let to = &mut to[panel * weights.panel_bytes(source.k) + block * weights.block_bytes()..];
            for k in 0..BLOCK {
                let at = (row * blocks + block) * BLOCK + k;
                if weights == Weights::Int8 {
                    to[byte_at(column, k)] = source.qweight[at];
                } else {
                    let (byte, shift) = nibble_at(column, k);
                    to[byte] |= (source.qweight[at / 2] >> (at % 2 * 4) & 15) << shift;
                }
            }
            let scale = source.scales[row * blocks + block];
            let at = weights.quant_bytes() + factor_at(column);
            put(to, at, scale);
            if weights.affine() {
                put(to, at + 2 * PANEL, -source.zeros.at(row, block, blocks) * scale);
            }
        }
    }
    packed
}

/// As `quantize::quantize`, all rows.
///
/// # Safety
/// As there.
pub unsafe fn quantize(x: *const f32, to: Activations) {
    for (row, height) in to.tiles() {
        let rows = to.tile_rows(row, height);
        for r in 0..height {
            for block in 0..to.k / BLOCK {
                let x = std::slice::from_raw_parts(x.add((row + r) * to.k + block * BLOCK), BLOCK);
                let amax = x.iter().fold(0.0f32, |max, v| if v.is_nan() || v.abs() > max { v.abs() } else { max });
                let (factor, scale) = factors(if x.iter().any(|v| v.is_nan()) { f32::NAN } else { amax });
                let mut sum = 0;
                for (i, v) in x.iter().enumerate() {
                    let q = (v * factor).round_ties_even() as i8;
                    let k = block * BLOCK + i;
                    rows.q.add((k / 4 * height + r) * 4 + k % 4).write(q);
                    sum += q as i32;
                }
                let at = block * height + r;
                rows.xs.add(at).write(scale);
                rows.xz.add(at).write(zero_start(sum));
                rows.sums.add(at).write(sum as f32);
            }
        }
    }
}

/// As `matmul::matmul`, all panels.
///
/// # Safety
/// As there.
pub unsafe fn matmul(matrix: Matrix, x: Activations, result: *mut f32) {
    let Matrix { weights, w, n } = matrix;
    for (row, height) in x.tiles() {
        let rows = x.tile_rows(row, height);
        for r in 0..height {
            for output in 0..n {
                let (panel, column) = (output / PANEL, output % PANEL);
                let panel = w.add(panel * weights.panel_bytes(x.k));
                let mut c = 0.0f32;
                for block in 0..x.k / BLOCK {
                    let w = std::slice::from_raw_parts(panel.add(block * weights.block_bytes()), weights.block_bytes());
                    let mut dot = 0i32;
                    for i in 0..BLOCK {
                        let k = block * BLOCK + i;
                        let q = rows.q.add((k / 4 * height + r) * 4 + k % 4).read();
                        dot += q as i32 * weight(weights, w, column, i);
                    }
                    let half = |at: usize| f16_to_scaled_f32(u16::from_le_bytes([w[at], w[at + 1]]));
                    let at = weights.quant_bytes() + factor_at(column);
                    let mut s = dot as f32 * half(at);
                    if weights.affine() {
                        s += half(at + 2 * PANEL) * rows.sums.add(block * height + r).read();
                    }
                    c += s * rows.xs.add(block * height + r).read();
                }
                result.add((row + r) * n + output).write(c);
            }
        }
    }
}

/// As `gemm_f32::panel`, all panels.
///
/// # Safety
/// As there.
pub unsafe fn matmul_f32(matrix: Matrix, x: *const f32, m: usize, k: usize, result: *mut f32) {
    let Matrix { weights, w, n } = matrix;
    for (row, output) in (0..m).flat_map(|row| (0..n).map(move |output| (row, output))) {
        let (panel, column) = (w.add(output / PANEL * weights.panel_bytes(k)), output % PANEL);
        let mut c = 0.0f32;
        for i in 0..k {
            let at = i / BLOCK * weights.block_bytes();
            let w = std::slice::from_raw_parts(panel.add(at), weights.block_bytes());
            let half = |at: usize| f16_to_f32(u16::from_le_bytes([w[at], w[at + 1]]));
            let at = weights.quant_bytes() + factor_at(column);
            let mut value = weight(weights, w, column, i % BLOCK) as f32 * half(at);
            if weights.affine() {
                value += half(at + 2 * PANEL);
            }
            c += x.add(row * k + i).read() * value;
        }
        result.add(row * n + output).write(c);
    }
}

/// The integer that scale is multiplied with.
fn weight(weights: Weights, block: &[u8], column: usize, k: usize) -> i32 {
    let nibble = || {
        let (byte, shift) = nibble_at(column, k);
        (block[byte] >> shift & 15) as i32
    };
    match weights {
        Weights::Int4 => nibble() - 8,
        Weights::Int4Affine => nibble(),
        Weights::Int8 => block[byte_at(column, k)] as i32 - 128,
    }
}
