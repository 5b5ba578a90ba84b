//! A matrix of the model, packed, and its product with rows of f32.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::activations::Activations;
use crate::choose::choose;
use crate::gemm_f32;
use crate::half::f16_to_f32;
use crate::layout::{byte_at, factor_at, nibble_at, Weights, BLOCK, PANEL};
use crate::matmul::{matmul, Matrix};
use crate::memory::AlignedBytes;
use crate::pack::{pack_panel, Packed, Source};
use crate::quantize::quantize;
use crate::threads::{for_parts, Shared};
use crate::tile::{expanded, Dot};
use crate::trial::try_both;

/// Fewer rows than this are quantized faster by one thread than by several.
const ROWS_APART: usize = 8;

/// Owns its packed bytes.
pub struct Linear {
    pub weights: Weights,
    pub n: usize,
    pub k: usize,
    dot: Dot,
    packed: AlignedBytes,
}

impl Linear {
    /// Holds anything until `pack` wrote all its rows. `None` when the memory is not there.
    pub fn new(weights: Weights, n: usize, k: usize) -> Option<Self> {
        let packed = AlignedBytes::new(weights.matrix_bytes(n, k))?;
        Some(Linear { weights, n, k, dot: choose(weights), packed })
    }

    /// Packs rows of the matrix, from row `first` on, which begins a panel.
    pub fn pack(&mut self, first: usize, source: &Source) -> Packed {
        assert!(first % PANEL == 0 && first + source.rows <= self.n && source.k == self.k);
        let (weights, bytes) = (self.weights, self.weights.panel_bytes(self.k));
        let to = Shared::new(&mut self.packed[first / PANEL * bytes..]);
        let (rounded, overflowed) = (AtomicU32::new(0), AtomicU32::new(0));
        for_parts(source.rows.div_ceil(PANEL), 1, |_, part| {
            for panel in part {
                let to = unsafe { to.part(panel * bytes..(panel + 1) * bytes) };
                let packed = pack_panel(weights, source, panel * PANEL, to);
                rounded.fetch_add(packed.rounded, Relaxed);
                overflowed.fetch_add(packed.overflowed, Relaxed);
            }
        });
        Packed { rounded: rounded.into_inner(), overflowed: overflowed.into_inner() }
    }

    /// Bytes that `run` takes of its scratch for `m` rows of `k` numbers at most.
    pub const fn scratch_bytes(m: usize, k: usize) -> usize {
        // Of an even number of rows none is alone, of one less there is one.
        Activations::bytes(m, k, 2) + Activations::bytes(1, k, 1) + 64
    }

    /// `out` f32 `[m, n]` = `x` f32 `[m, k]` times the matrix. Rows are quantized into `scratch` first.
    /// A row gives the same bits whatever `m` is, and however many threads run.
    pub fn run(&self, x: &[f32], m: usize, scratch: &mut Vec<u8>, out: &mut [f32]) {
        assert!(x.len() == m * self.k && out.len() == m * self.n);
        let tile = m.min(2);
        scratch.resize(scratch.len().max(Activations::bytes(m, self.k, tile) + 64), 0);
        let base = scratch.as_mut_ptr();
        let base = unsafe { base.add(base.align_offset(64)) };
        let rows = Activations { base, m, k: self.k, tile };
        let matrix = Matrix { weights: self.weights, w: self.packed.as_ptr(), n: self.n };
        for_parts(m, ROWS_APART, |_, part| unsafe { quantize(x.as_ptr(), rows, part.start, part.end) });
        let out = Shared::new(out);
        let multiply = |expand| {
            for_parts(self.n.div_ceil(PANEL), 1, |_, part| unsafe {
                matmul(self.dot, matrix, rows, out.pointer(), part.start, part.end, expand)
            })
        };
        if m > 1 && expanded(self.weights, self.dot, 2).is_some() {
            try_both(m, self.n, self.k, multiply);
        } else {
            multiply(false);
        }
    }

    /// `run` without rounding `x`: slower, and as exact as f32.
    pub fn run_f32(&self, x: &[f32], m: usize, out: &mut [f32]) {
        assert!(x.len() == m * self.k && out.len() == m * self.n);
        let matrix = Matrix { weights: self.weights, w: self.packed.as_ptr(), n: self.n };
        let out = Shared::new(out);
        for_parts(self.n.div_ceil(PANEL), 1, |_, part| {
            for panel in part {
                unsafe { gemm_f32::panel(matrix, x.as_ptr(), m, self.k, out.pointer(), panel) }
            }
        });
    }

    /// Row `n` as f32 `[k]`: the embedding of a token.
    pub fn row(&self, n: usize, out: &mut [f32]) {
        assert!(n < self.n && out.len() == self.k);
        let (panel, column) = (n / PANEL, n % PANEL);
        let panel = &self.packed[panel * self.weights.panel_bytes(self.k)..];
        for (block, out) in out.chunks_exact_mut(BLOCK).enumerate() {
            let block = &panel[block * self.weights.block_bytes()..];
            let factor = |at: usize| f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]));
            let at = self.weights.quant_bytes() + factor_at(column);
            let scale = factor(at);
            for (k, value) in out.iter_mut().enumerate() {
                let (byte, shift) = nibble_at(column, k);
                let q = (block[byte] >> shift & 15) as i32;
                *value = match self.weights {
                    Weights::Int4 => (q - 8) as f32 * scale,
                    Weights::Int4Affine => q as f32 * scale + factor(at + 2 * PANEL),
                    Weights::Int8 => (block[byte_at(column, k)] as i32 - 128) as f32 * scale,
                };
            }
        }
    }
}
