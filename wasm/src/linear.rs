//! A matrix of the model, packed, and its product with rows of f32.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::activations::Activations;
use crate::choose::{choose, other};
use crate::gemm_f32;
use crate::half::f16_to_f32;
use crate::layout::{byte_at, factor_at, nibble_at, Weights, BLOCK, PANEL};
use crate::matmul::{matmul, Matrix};
use crate::memory::AlignedBytes;
use crate::pack::{pack_panel, Packed, Source};
use crate::quantize::quantize;
use crate::threads::{for_parts, Shared};
use crate::tile::{expanded, Dot};
use crate::trial::{try_both, Ways};

/// Fewer rows than this are quantized faster by one thread than by several.
const ROWS_APART: usize = 8;

/// What follows on columns of a product.
pub type Then<'a> = dyn Fn(&Shared<f32>, Range<usize>) + Sync + 'a;

/// In which order a matrix gives its outputs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Order {
    AsPacked,
    /// 32 of the first half, the same 32 of the second, and so on: who computes them has both.
    Paired,
}

impl Order {
    /// Panels that stay together.
    const fn group(self) -> usize {
        match self {
            Order::AsPacked => 1,
            Order::Paired => 2 * BLOCK / PANEL,
        }
    }

    /// Where panel `panel` of `panels` lies.
    fn place(self, panel: usize, panels: usize) -> usize {
        match self {
            Order::AsPacked => panel,
            Order::Paired => {
                let (half, panel) = (panel / (panels / 2), panel % (panels / 2));
                let each = BLOCK / PANEL;
                (panel / each * 2 + half) * each + panel % each
            }
        }
    }
}

/// Owns its packed bytes.
pub struct Linear {
    pub weights: Weights,
    pub n: usize,
    pub k: usize,
    order: Order,
    dot: Dot,
    other_dot: Option<Dot>,
    packed: AlignedBytes,
}

impl Linear {
    /// Holds anything until `pack` wrote all its rows. `None` when the memory is not there.
    pub fn new(weights: Weights, n: usize, k: usize, order: Order) -> Option<Self> {
        assert!(order == Order::AsPacked || n % (2 * BLOCK) == 0);
        let packed = AlignedBytes::new(weights.matrix_bytes(n, k))?;
        Some(Linear { weights, n, k, order, dot: choose(weights), other_dot: other(weights), packed })
    }

    /// Packs rows of the matrix, from row `first` on, which begins a panel.
    pub fn pack(&mut self, first: usize, source: &Source) -> Packed {
        assert!(first % PANEL == 0 && first + source.rows <= self.n && source.k == self.k);
        let (weights, bytes) = (self.weights, self.weights.panel_bytes(self.k));
        let (order, panels) = (self.order, self.n.div_ceil(PANEL));
        let to = Shared::new(&mut self.packed[..]);
        let (rounded, overflowed) = (AtomicU32::new(0), AtomicU32::new(0));
        for_parts(source.rows.div_ceil(PANEL), 1, |_, part| {
            for panel in part {
                let place = order.place(first / PANEL + panel, panels);
                let to = unsafe { to.part(place * bytes..(place + 1) * bytes) };
                let packed = pack_panel(weights, source, panel * PANEL, to);
                rounded.fetch_add(packed.rounded, Relaxed);
                overflowed.fetch_add(packed.overflowed, Relaxed);
            }
        });
        Packed { rounded: rounded.into_inner(), overflowed: overflowed.into_inner() }
    }

    /// Bytes that `run` takes of its scratch for `m` rows of `k` numbers at most.
    pub const fn scratch_bytes(m: usize, k: usize) -> usize {
        Activations::bytes(m, k) + 64
    }

    /// `out` f32 `[m, n]` = `x` f32 `[m, k]` times the matrix. Rows are quantized into `scratch` first.
    /// A row gives the same bits whatever `m` is, and however many threads run. `then` gets `out` and which groups of
    /// its columns are done, of all rows, on the thread that did them.
    pub fn run(&self, x: &[f32], m: usize, scratch: &mut Vec<u8>, out: &mut [f32], then: &Then) {
        assert!(x.len() == m * self.k && out.len() == m * self.n);
        let tile = m.min(2);
        scratch.resize(scratch.len().max(Self::scratch_bytes(m, self.k)), 0);
        let base = scratch.as_mut_ptr();
        let base = unsafe { base.add(base.align_offset(64)) };
        let rows = Activations { base, m, k: self.k, tile };
        let matrix = Matrix { weights: self.weights, w: self.packed.as_ptr(), n: self.n };
        for_parts(m, ROWS_APART, |_, part| unsafe { quantize(x.as_ptr(), rows, part.start, part.end) });
        let out = Shared::new(out);
        let multiply = |dot, expand| {
            self.for_groups(|panels, groups| {
                unsafe { matmul(dot, matrix, rows, out.pointer(), panels.start, panels.end, expand) };
                then(&out, groups);
            })
        };
        if m > 1 && expanded(self.weights, self.dot, 2).is_some() {
            try_both(Ways::Expand, m, self.n, self.k, |expand| multiply(self.dot, expand));
        } else if let Some(other) = self.other_dot {
            try_both(Ways::Dot, m, self.n, self.k, |second| multiply(if second { other } else { self.dot }, false));
        } else {
            multiply(self.dot, false);
        }
    }

    /// `run` without rounding `x`: slower, and as exact as f32.
    pub fn run_f32(&self, x: &[f32], m: usize, out: &mut [f32], then: &Then) {
        assert!(x.len() == m * self.k && out.len() == m * self.n);
        let matrix = Matrix { weights: self.weights, w: self.packed.as_ptr(), n: self.n };
        let out = Shared::new(out);
        self.for_groups(|panels, groups| {
            for panel in panels {
                unsafe { gemm_f32::panel(matrix, x.as_ptr(), m, self.k, out.pointer(), panel) }
            }
            then(&out, groups);
        });
    }

    /// Runs `work(panels, groups)` over all groups of panels, on all threads that have time.
    fn for_groups(&self, work: impl Fn(Range<usize>, Range<usize>) + Sync) {
        let (group, panels) = (self.order.group(), self.n.div_ceil(PANEL));
        for_parts(panels.div_ceil(group), 1, |_, groups| {
            work(groups.start * group..panels.min(groups.end * group), groups);
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
