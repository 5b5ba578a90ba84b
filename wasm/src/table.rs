//! A matrix of which only rows are read: a token embedding that is not quantized, as f16.

use std::slice::from_raw_parts;

use crate::half::{f16_from_f32, f16_to_f32};
use crate::memory::reserve;

/// `[rows, k]`, row after row.
pub struct Table {
    k: usize,
    values: Vec<u16>,
}

impl Table {
    /// Zeroed. `None` when the memory is not there.
    pub fn new(rows: usize, k: usize) -> Option<Self> {
        let mut values = Vec::new();
        let reserved = reserve(&mut values, rows * k);
        values.resize(if reserved { rows * k } else { 0 }, 0);
        reserved.then_some(Table { k, values })
    }

    /// Copies `count` rows to row `first` and on, values rounded to f16. Returns whether it can hold them all.
    ///
    /// # Safety
    /// `from` is the address of that many rows, f16 where `half`, else f32.
    pub unsafe fn fill(&mut self, first: usize, count: usize, from: usize, half: bool) -> bool {
        let to = &mut self.values[first * self.k..(first + count) * self.k];
        if half {
            to.copy_from_slice(from_raw_parts(from as *const u16, to.len()));
            return true;
        }
        let mut fits = true;
        for (to, &value) in to.iter_mut().zip(from_raw_parts(from as *const f32, count * self.k)) {
            let bits = f16_from_f32(value);
            fits &= bits.is_some();
            *to = bits.unwrap_or(0);
        }
        fits
    }

    /// Row `n` as f32 `[k]`.
    pub fn row(&self, n: usize, out: &mut [f32]) {
        for (out, &bits) in out.iter_mut().zip(&self.values[n * self.k..]) {
            *out = f16_to_f32(bits);
        }
    }
}
