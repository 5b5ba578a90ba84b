//! A matrix product: quantized rows times a packed matrix, some of its panels.

use crate::activations::Activations;
use crate::layout::{Weights, BLOCK, PANEL};
use crate::panel_output::PanelOutput;
use crate::{gemm_int4, tile, tile::Dot};

/// The packed matrix `[n, k]` at `w`; k is the activations'.
#[derive(Clone, Copy)]
pub struct Matrix {
    pub weights: Weights,
    pub w: *const u8,
    pub n: usize,
}

/// It is only read.
unsafe impl Sync for Matrix {}

/// `result[row][output] = sum over k of x[row][k] * w[output][k]`, for the outputs of panels `from..until`.
///
/// With `expand`, int4 is expanded to bytes in slices that all rows share; the bits of the result are the same.
///
/// # Safety
/// `matrix` and `x` hold what their shapes say; `result` is f32 `[m, n]`. Threads may share all of it as long as
/// their panels differ.
pub unsafe fn matmul(
    dot: Dot,
    matrix: Matrix,
    x: Activations,
    result: *mut f32,
    from: usize,
    until: usize,
    expand: bool,
) {
    let Matrix { weights, w, n } = matrix;
    // One tile walks through its panels in one go; several tiles share a panel while it is in the first-level cache.
    let most = if x.m <= x.tile && !expand { until - from } else { 1 };
    let mut panel = from;
    while panel < until {
        let whole = n / PANEL;
        let panels = if panel < whole { most.min(until.min(whole) - panel) } else { 1 };
        let output = PanelOutput::new(result, x.m, n, panel);
        let w = w.add(panel * weights.panel_bytes(x.k));
        if expand {
            gemm_int4::panel(dot, weights, w, x, output.output());
        }
        for (row, height) in x.tiles() {
            if expand && height > 1 {
                continue;
            }
            let kernel = tile::direct(weights, dot, height).expect("no kernel for this height");
            tile::run(kernel, w, x.tile_rows(row, height), output.output().row(row), panels, x.k / BLOCK);
        }
        output.finish(result, n, panel);
        panel += panels;
    }
}
