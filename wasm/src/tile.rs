//! The inner kernels: a tile of rows times one panel. `asm/` writes them, this file names and calls them.

use std::arch::global_asm;

use crate::activations::TileRows;
use crate::layout::{Weights, PANEL};

global_asm!(include_str!(concat!(env!("OUT_DIR"), "/tiles.s")));

/// The instruction that multiplies; all give the same bits. `asm/dot.rs` describes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dot {
    Plain,
    I16,
    I32,
}

impl Dot {
    /// From the number that the exported functions take: 0, 1, 2.
    pub fn from_index(index: u32) -> Self {
        [Dot::Plain, Dot::I16, Dot::I32][index as usize]
    }
}

/// `c[row][0..16] = activations * weights` over `blocks` blocks, at least one, and so on for `panels` panels that follow
/// each other, at least one. A kernel of expanded weights adds to `c` instead.
///
/// `w` the first panel's first block; `x`, `xs`, `xz`, `sums` the tile's (`activations.rs`); `c` f32, rows `c_stride`
/// bytes apart; `constants` is `CONSTANTS`.
pub type Kernel = unsafe extern "C" fn(
    w: *const u8,
    x: *const i8,
    xs: *const f32,
    xz: *const i32,
    sums: *const f32,
    c: *mut f32,
    c_stride: usize,
    panels: usize,
    blocks: usize,
    constants: *const Constants,
);

#[repr(C, align(16))]
pub struct Constants {
    low_bits: [u8; 16],
    ones: [u16; 8],
    f16_bits: [u32; 4],
    /// For the even, then for the odd f16 of a vector.
    f16_shifts: [[u32; 4]; 2],
    even_bytes: [u16; 8],
}

/// Read from memory: JSC makes a vector constant anew at every use, out of several instructions.
static CONSTANTS: Constants = Constants {
    low_bits: [15; 16],
    ones: [1; 8],
    f16_bits: [0x8fff_e000; 4],
    f16_shifts: [[1 << 13; 4], [1 << 29; 4]],
    even_bytes: [0xff; 8],
};

/// Rows of f32 that a kernel writes.
#[derive(Clone, Copy)]
pub struct Output {
    pub c: *mut f32,
    pub stride_bytes: usize,
}

impl Output {
    /// # Safety
    /// The output has that row.
    pub unsafe fn row(self, row: usize) -> Self {
        Output { c: self.c.byte_add(row * self.stride_bytes), ..self }
    }

    /// Zeroes a panel's columns of a row, for who adds to them.
    ///
    /// # Safety
    /// The output has that row.
    pub unsafe fn clear(self, row: usize) {
        self.row(row).c.cast::<[f32; PANEL]>().write([0.0; PANEL]);
    }
}

/// # Safety
/// `w` holds `panels` panels of `blocks` blocks of what `kernel` is for, `rows` and `c` as many rows as it takes.
pub unsafe fn run(kernel: Kernel, w: *const u8, rows: TileRows, c: Output, panels: usize, blocks: usize) {
    kernel(w, rows.q, rows.xs, rows.xz, rows.sums, c.c, c.stride_bytes, panels, blocks, &CONSTANTS)
}

/// Declares kernels and a function that picks one.
macro_rules! kernels {
    ($(#[$doc:meta])* $find:ident: $($(#[$cfg:meta])? ($weights:ident, $dot:ident, $height:literal) => $name:ident,)*) => {
        extern "C" {
            $($(#[$cfg])? fn $name(
                w: *const u8, x: *const i8, xs: *const f32, xz: *const i32, sums: *const f32,
                c: *mut f32, c_stride: usize, panels: usize, blocks: usize, constants: *const Constants,
            );)*
        }

        $(#[$doc])*
        pub fn $find(weights: Weights, dot: Dot, height: usize) -> Option<Kernel> {
            match (weights, dot, height) {
                $($(#[$cfg])? (Weights::$weights, Dot::$dot, $height) => Some($name),)*
                _ => None,
            }
        }
    };
}

kernels! {
    /// The kernel that reads the layout itself, where there is one for that height.
    direct:
    (Int4, Plain, 1) => hearth_nibbles_plain_1,
    (Int4, Plain, 2) => hearth_nibbles_plain_2,
    (Int4Affine, Plain, 1) => hearth_nibbles_affine_plain_1,
    (Int4Affine, Plain, 2) => hearth_nibbles_affine_plain_2,
    (Int8, Plain, 1) => hearth_int8_plain_1,
    (Int8, Plain, 2) => hearth_int8_plain_2,
    #[cfg(target_feature = "relaxed-simd")] (Int4, I16, 1) => hearth_nibbles_i16_1,
    #[cfg(target_feature = "relaxed-simd")] (Int4, I16, 2) => hearth_nibbles_i16_2,
    #[cfg(target_feature = "relaxed-simd")] (Int4Affine, I16, 1) => hearth_nibbles_affine_i16_1,
    #[cfg(target_feature = "relaxed-simd")] (Int4Affine, I16, 2) => hearth_nibbles_affine_i16_2,
    #[cfg(target_feature = "relaxed-simd")] (Int4, I32, 1) => hearth_nibbles_i32_1,
    #[cfg(target_feature = "relaxed-simd")] (Int4, I32, 2) => hearth_nibbles_i32_2,
    #[cfg(target_feature = "relaxed-simd")] (Int4Affine, I32, 1) => hearth_nibbles_affine_i32_1,
    #[cfg(target_feature = "relaxed-simd")] (Int4Affine, I32, 2) => hearth_nibbles_affine_i32_2,
    #[cfg(target_feature = "relaxed-simd")] (Int8, I16, 1) => hearth_int8_single_1,
    #[cfg(target_feature = "relaxed-simd")] (Int8, I16, 2) => hearth_int8_single_2,
    #[cfg(target_feature = "relaxed-simd")] (Int8, I32, 1) => hearth_int8_i32_1,
    #[cfg(target_feature = "relaxed-simd")] (Int8, I32, 2) => hearth_int8_i32_2,
}

kernels! {
    /// The kernel that reads int4 expanded by `gemm_int4.rs`, where there is one for that height.
    expanded:
    #[cfg(target_feature = "relaxed-simd")] (Int4, I16, 2) => hearth_bytes_i16_2,
    #[cfg(target_feature = "relaxed-simd")] (Int4Affine, I16, 2) => hearth_bytes_affine_i16_2,
    #[cfg(target_feature = "relaxed-simd")] (Int4, I32, 2) => hearth_bytes_i32_2,
    #[cfg(target_feature = "relaxed-simd")] (Int4Affine, I32, 2) => hearth_bytes_affine_i32_2,
}
