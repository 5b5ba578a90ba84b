//! Where a panel's 16 outputs go: into the result itself, or beside it where the result is narrower than the panel.

use crate::layout::PANEL;
use crate::tile::Output;

/// Columns of one panel, for kernels to write.
pub struct PanelOutput {
    output: Output,
    /// Holds `[m, 16]` for the last panel of a matrix whose N is no multiple of 16.
    beside: Vec<f32>,
}

impl PanelOutput {
    /// # Safety
    /// `result` is f32 `[m, n]`.
    pub unsafe fn new(result: *mut f32, m: usize, n: usize, panel: usize) -> Self {
        if n - panel * PANEL < PANEL {
            let mut beside = vec![0.0; m * PANEL];
            let output = Output { c: beside.as_mut_ptr(), stride_bytes: 4 * PANEL };
            return PanelOutput { output, beside };
        }
        let output = Output { c: result.add(panel * PANEL), stride_bytes: 4 * n };
        PanelOutput { output, beside: Vec::new() }
    }

    pub fn output(&self) -> Output {
        self.output
    }

    /// # Safety
    /// The arguments are those of `new`.
    pub unsafe fn finish(self, result: *mut f32, n: usize, panel: usize) {
        for (row, values) in self.beside.chunks_exact(PANEL).enumerate() {
            let first = panel * PANEL;
            values.as_ptr().copy_to_nonoverlapping(result.add(row * n + first), n - first);
        }
    }
}
