//! From the operands of a `MatMulNBits` with blocks of 32 to the layout of `layout.rs`, a panel at a time.
//! https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits

use std::arch::wasm32::*;
use std::ops::AddAssign;
use std::slice::from_raw_parts;

use crate::half::f16x4_from_f32x4;
use crate::layout::{Weights, BLOCK, PANEL};

/// Where `q` stands for zero.
#[derive(Clone, Copy)]
pub enum ZeroPoints<'a> {
    /// The middle: 8 of int4, 128 of int8.
    Absent,
    /// f32 `[N, K/32]`
    F32(&'a [f32]),
    /// u8 `[N, ceil(K/64)]`, two to a byte, the low half first.
    Packed(&'a [u8]),
}

impl ZeroPoints<'_> {
    pub fn at(self, row: usize, block: usize, blocks: usize) -> f32 {
        match self {
            ZeroPoints::Absent => 8.0,
            ZeroPoints::F32(values) => values[row * blocks + block],
            ZeroPoints::Packed(bytes) => (bytes[row * blocks.div_ceil(2) + block / 2] >> (block % 2 * 4) & 15) as f32,
        }
    }
}

/// Rows of a matrix `[rows, K]`.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub rows: usize,
    pub k: usize,
    /// int4: u8 `[rows, K/32, 16]`, the low half first along K; int8: u8 `[rows, K/32, 32]`.
    pub qweight: &'a [u8],
    /// f32 `[rows, K/32]`
    pub scales: &'a [f32],
    pub zeros: ZeroPoints<'a>,
}

impl<'a> Source<'a> {
    /// The operands at these addresses; zero points are for affine weights only.
    ///
    /// # Safety
    /// They are there, as long as `rows` and `k` say, for as long as the result is used.
    pub unsafe fn at(
        weights: Weights,
        rows: usize,
        k: usize,
        qweight: usize,
        scales: usize,
        zeros: usize,
        packed_zeros: bool,
    ) -> Source<'a> {
        let blocks = k / BLOCK;
        let zeros = match weights {
            Weights::Int4Affine if packed_zeros => {
                ZeroPoints::Packed(from_raw_parts(zeros as *const u8, rows * blocks.div_ceil(2)))
            }
            Weights::Int4Affine => ZeroPoints::F32(from_raw_parts(zeros as *const f32, rows * blocks)),
            _ => ZeroPoints::Absent,
        };
        let bytes = rows * blocks * if weights == Weights::Int8 { BLOCK } else { BLOCK / 2 };
        Source {
            rows,
            k,
            qweight: from_raw_parts(qweight as *const u8, bytes),
            scales: from_raw_parts(scales as *const f32, rows * blocks),
            zeros,
        }
    }
}

/// What packing did to scales and minima, which become f16.
#[derive(Default)]
pub struct Packed {
    /// Those whose value changed.
    pub rounded: u32,
    /// Those that f16 cannot hold (above 65504 or not finite): the matrix is not usable.
    pub overflowed: u32,
}

impl Packed {
    /// How many were rounded; -1 when any overflowed.
    pub fn report(&self) -> i32 {
        if self.overflowed > 0 {
            -1
        } else {
            self.rounded as i32
        }
    }
}

impl AddAssign for Packed {
    fn add_assign(&mut self, other: Packed) {
        self.rounded += other.rounded;
        self.overflowed += other.overflowed;
    }
}

/// Packs the panel that begins with row `first` of the source. Rows that the source has not are zeros.
///
/// Affine int4 `(q - zero) * scale` becomes `scale * q + min`, `min = -zero * scale` rounded to f16. Lossless when
/// scales and minima came from f16, as those of GGML's Q4_0 and Q4_1 do.
pub fn pack_panel(weights: Weights, source: &Source, first: usize, to: &mut [u8]) -> Packed {
    let blocks = source.k / BLOCK;
    let rows = PANEL.min(source.rows - first);
    assert!(to.len() == weights.panel_bytes(source.k) && source.scales.len() == source.rows * blocks);
    assert!(source.qweight.len() == source.rows * blocks * if weights == Weights::Int8 { BLOCK } else { BLOCK / 2 });
    let mut packed = Packed::default();
    for (block, to) in to.chunks_exact_mut(weights.block_bytes()).enumerate() {
        let (quants, factors) = to.split_at_mut(weights.quant_bytes());
        // Row `first + column`; the last one again where there are no more, to be replaced by zeros.
        let place = |column: usize| (first + column.min(rows - 1)) * blocks + block;
        for quad in 0..4 {
            let there = |column: usize| if column < rows { u32::MAX } else { 0 };
            let mask: [v128; 4] = std::array::from_fn(|i| u32x4_splat(there(4 * quad + i)));
            let load = |column: usize, vector: usize, vectors: usize| unsafe {
                let from = source.qweight.as_ptr().cast::<v128>();
                v128_and(v128_load(from.add(place(column) * vectors + vector)), mask[column % 4])
            };
            let to = unsafe { quants.as_mut_ptr().cast::<v128>().add(quad / 2 * quants.len() / 32 + quad % 2) };
            if weights == Weights::Int8 {
                for vector in 0..2 {
                    let columns = std::array::from_fn(|i| load(4 * quad + i, vector, 2));
                    store_transposed(columns, unsafe { to.add(8 * vector) });
                }
            } else {
                store_transposed(std::array::from_fn(|i| regroup_nibbles(load(4 * quad + i, 0, 1))), to);
            }
        }
        let mut scales = [0.0; PANEL];
        for (column, scale) in scales[..rows].iter_mut().enumerate() {
            *scale = source.scales[place(column)];
        }
        packed += put_f16(&scales, &mut factors[..2 * PANEL]);
        if weights.affine() {
            let mut minima = [0.0; PANEL];
            for (column, minimum) in minima[..rows].iter_mut().enumerate() {
                *minimum = -source.zeros.at(first + column, block, blocks) * scales[column];
            }
            packed += put_f16(&minima, &mut factors[2 * PANEL..]);
        }
    }
    packed
}

/// In every dword the nibbles 0 1 2 3 4 5 6 7, lowest first, to 0 4 1 5 2 6 3 7.
fn regroup_nibbles(v: v128) -> v128 {
    let even = v128_and(v, u8x16_splat(15));
    let odd = u8x16_shr(v, 4);
    let low = i8x16_shuffle::<0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29>(even, odd);
    let high = i8x16_shuffle::<2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31>(even, odd);
    v128_or(low, i8x16_shl(high, 4))
}

/// Dword `i` of every column to the vector `to + 2 * i`.
fn store_transposed(columns: [v128; 4], to: *mut v128) {
    let [a, b, c, d] = columns;
    let ab = (i32x4_shuffle::<0, 4, 1, 5>(a, b), i32x4_shuffle::<2, 6, 3, 7>(a, b));
    let cd = (i32x4_shuffle::<0, 4, 1, 5>(c, d), i32x4_shuffle::<2, 6, 3, 7>(c, d));
    unsafe {
        v128_store(to, i64x2_shuffle::<0, 2>(ab.0, cd.0));
        v128_store(to.add(2), i64x2_shuffle::<1, 3>(ab.0, cd.0));
        v128_store(to.add(4), i64x2_shuffle::<0, 2>(ab.1, cd.1));
        v128_store(to.add(6), i64x2_shuffle::<1, 3>(ab.1, cd.1));
    }
}

fn put_f16(values: &[f32; PANEL], to: &mut [u8]) -> Packed {
    let mut packed = Packed::default();
    for (values, to) in values.chunks_exact(8).zip(to.chunks_exact_mut(16)) {
        let halves: [_; 2] =
            std::array::from_fn(|c| f16x4_from_f32x4(unsafe { v128_load(values.as_ptr().add(4 * c).cast()) }));
        for half in &halves {
            packed.rounded += i32x4_bitmask(half.changed).count_ones();
            packed.overflowed += i32x4_bitmask(half.overflowed).count_ones();
        }
        let bits = i16x8_shuffle::<0, 8, 1, 9, 2, 10, 3, 11>(halves[0].bits, halves[1].bits);
        unsafe { v128_store(to.as_mut_ptr().cast(), bits) };
    }
    packed
}
