//! One kernel: `rows` rows of activations times one panel of 16 columns, block after block.
//!
//! The result of a row has the same bits in every kernel: integers are exact within a block, and every output is
//! `c = c + (d * dot [+ m * sum]) * xs`, rounded after each operation, in the order of the blocks.

pub use crate::dot::Dot;
use crate::function::{Function, Local};

/// Where `Constants` of `src/tile.rs` has what most kernels do not keep in registers; the first three they do.
const F16_SHIFTS: usize = 48;
const EVEN_BYTES: usize = 80;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// The int4 panel of `src/layout.rs`.
    Nibbles { affine: bool },
    /// What `src/gemm_int4.rs` expands it to: a byte per weight, f32 scales.
    Bytes { affine: bool },
    /// The int8 panel, zero point 128.
    Int8,
}

pub struct Tile {
    pub rows: usize,
    /// Vectors of four columns that are summed at a time: as many as registers hold.
    pub vectors: usize,
    pub weights: Weights,
    pub dot: Dot,
}

impl Tile {
    fn affine(&self) -> bool {
        matches!(self.weights, Weights::Nibbles { affine: true } | Weights::Bytes { affine: true })
    }

    fn name(&self) -> String {
        let weights = match self.weights {
            Weights::Nibbles { .. } => "nibbles",
            Weights::Bytes { .. } => "bytes",
            Weights::Int8 => "int8",
        };
        let affine = if self.affine() { "_affine" } else { "" };
        format!("hearth_{weights}{affine}_{}_{}", self.dot.name(), self.rows)
    }

    /// Bytes before the scales, of one vector of scales, and from block to block.
    fn block(&self) -> (usize, usize, usize) {
        let (quants, scales) = match self.weights {
            Weights::Nibbles { .. } => (256, 8),
            Weights::Bytes { .. } => (512, 16),
            Weights::Int8 => (512, 8),
        };
        (quants, scales, quants + 4 * scales * if self.affine() { 2 } else { 1 })
    }

    /// Whether sums over K begin in `c`: slices of K follow each other. Otherwise a kernel has all of K, and begins at 0.
    fn adds(&self) -> bool {
        matches!(self.weights, Weights::Bytes { .. })
    }

    /// Whether `f16_shifts` stay in registers: most often sums need these more.
    fn keeps_shifts(&self) -> bool {
        self.dot == Dot::Plain && self.weights == Weights::Int8
    }

    /// The function `name(w, x, xs, xz, sums, c, c_stride, panels, blocks, constants)`; `src/tile.rs` tells of its
    /// arguments.
    pub fn text(&self) -> String {
        let (mut f, [w, x, xs, xz, sums, c, c_stride, panels, blocks, constants]) = Function::new(self.name());
        let mut registers = Registers::new(&mut f, self);
        for (i, &constant) in registers.constants.iter().enumerate() {
            f.load("v128.load", constants, 16 * i).set(constant);
        }
        if self.keeps_shifts() {
            registers.load_shifts(&mut f, constants);
        }
        // c stays in registers for one row only.
        registers.kept = if self.rows == 1 { f.v128s(4) } else { Vec::new() };
        let c_rows: Vec<Local> = (0..self.rows).map(|row| if row == 0 { c } else { f.i32_local() }).collect();
        let starts = [x, xs, xz, sums, blocks];
        let moving = starts.map(|_| f.i32_local());
        let [x, xs, xz, sums, blocks] = moving;
        f.repeat(panels, |f| {
            for (&start, &local) in starts.iter().zip(&moving) {
                f.get(start).set(local);
            }
            for pair in c_rows.windows(2) {
                f.get(pair[0]).get(c_stride).op("i32.add").set(pair[1]);
            }
            self.begin(f, &registers, &c_rows);
            f.repeat(blocks, |f| self.block_of_all_rows(f, &registers, [w, x, xs, xz, sums, constants], &c_rows));
            for (v, &local) in registers.kept.iter().enumerate() {
                f.get(c).get(local).op(&format!("v128.store {}", 16 * v));
            }
            f.advance(c, 64);
        });
        f.text()
    }

    /// Sets what `scale` adds to.
    fn begin(&self, f: &mut Function, registers: &Registers, c_rows: &[Local]) {
        for (v, &local) in registers.kept.iter().enumerate() {
            if self.adds() {
                f.load("v128.load", c_rows[0], 16 * v).set(local);
            } else {
                f.op("v128.const 0, 0, 0, 0").set(local);
            }
        }
        if registers.kept.is_empty() && !self.adds() {
            for &row in c_rows {
                for v in 0..4 {
                    f.get(row).op("v128.const 0, 0, 0, 0").op(&format!("v128.store {}", 16 * v));
                }
            }
        }
    }

    /// One block, and on to the next.
    fn block_of_all_rows(&self, f: &mut Function, registers: &Registers, pointers: [Local; 6], c_rows: &[Local]) {
        let [w, x, xs, xz, sums, constants] = pointers;
        for first in (0..4).step_by(self.vectors) {
            self.start(f, registers, xz);
            if self.dot == Dot::Single {
                self.single_dots(f, registers, w, x, constants);
            } else {
                self.dots(f, registers, first, w, x);
            }
            // Expanded bytes have their scales as f32.
            if !self.keeps_shifts() && !matches!(self.weights, Weights::Bytes { .. }) {
                registers.load_shifts(f, constants);
            }
            for row in 0..self.rows {
                f.load("v128.load32_splat", xs, 4 * row).set(registers.xs[row]);
                if self.affine() {
                    f.load("v128.load32_splat", sums, 4 * row).set(registers.x_sums[row]);
                }
            }
            for v in 0..self.vectors {
                self.scale(f, registers, first + v, v, w, c_rows);
            }
        }
        f.advance(w, self.block().2).advance(x, 32 * self.rows);
        for pointer in [xs, xz, sums] {
            f.advance(pointer, 4 * self.rows);
        }
    }

    /// Sets every sum to what makes up for the zero point; where the minimum does, to 0 if need be.
    fn start(&self, f: &mut Function, registers: &Registers, xz: Local) {
        if self.affine() && !self.dot.starts_from_zero() {
            return;
        }
        for (row, sums) in registers.sums.iter().enumerate() {
            if self.affine() {
                f.op("v128.const 0, 0, 0, 0");
            } else {
                f.load("v128.load32_splat", xz, 4 * row);
                self.dot.start(f, if self.weights == Weights::Int8 { 4 } else { 0 });
            }
            let (last, others) = sums.split_last().unwrap();
            f.set(*last);
            for &sum in others {
                f.get(*last).set(sum);
            }
        }
    }

    /// All rows' activations of eight k first, then weights column by column: nothing is unpacked twice.
    fn dots(&self, f: &mut Function, registers: &Registers, first: usize, w: Local, x: Local) {
        let Registers { t, weight, unpacked, low_bits, .. } = registers;
        for pair in 0..4 {
            self.load_activations(f, registers, pair, x);
            for v in first..first + self.vectors {
                let sums = |row: usize| registers.sums_of(self, row, v - first);
                for half in 0..2 {
                    let operand = match self.weights {
                        Weights::Nibbles { .. } => {
                            if half == 0 {
                                let at = 128 * (v / 2) + 32 * pair + 16 * (v % 2);
                                f.load("v128.load", w, at).tee(*weight);
                            } else {
                                f.get(*weight).i32(4).op("i16x8.shr_u");
                            }
                            f.get(*low_bits).op("v128.and").set(*unpacked);
                            *unpacked
                        }
                        _ => {
                            f.load("v128.load", w, byte_offset(v, 2 * pair + half)).set(*weight);
                            *weight
                        }
                    };
                    let begins = self.affine() && pair == 0 && half == 0;
                    for row in 0..self.rows {
                        self.dot.add(f, sums(row), t[half * self.rows + row], operand, begins);
                    }
                }
            }
        }
    }

    /// Like `dots`, of bytes, four k after four.
    fn single_dots(&self, f: &mut Function, registers: &Registers, w: Local, x: Local, constants: Local) {
        let Registers { t, weight, unpacked, ones, .. } = registers;
        // What takes the place of nibbles' low bits.
        let even_bytes = *unpacked;
        f.load("v128.load", constants, EVEN_BYTES).set(even_bytes);
        for group in 0..8 {
            if self.rows > 1 {
                f.load("v128.load64_splat", x, 8 * group).set(registers.x);
            }
            for row in 0..self.rows {
                let (even, odd) = (t[2 * row], t[2 * row + 1]);
                if self.rows == 1 {
                    f.load("v128.load32_splat", x, 4 * group).set(odd);
                } else {
                    splat_dword(f, registers.x, row);
                    f.set(odd);
                }
                f.get(odd).get(even_bytes).op("v128.and").set(even);
                f.get(odd).get(even).op("v128.xor").set(odd);
            }
            for v in 0..self.vectors {
                f.load("v128.load", w, byte_offset(v, group)).set(*weight);
                for row in 0..self.rows {
                    let sum = registers.sums_of(self, row, v)[0];
                    Dot::add_single(f, sum, [t[2 * row], t[2 * row + 1]], *weight, *ones);
                }
            }
        }
    }

    /// `t[half * rows + row]`: four activations of k group `2 * pair + half`, in every dword.
    fn load_activations(&self, f: &mut Function, registers: &Registers, pair: usize, x: Local) {
        let rows = self.rows;
        if rows == 1 {
            for half in 0..2 {
                f.load("v128.load32_splat", x, 8 * pair + 4 * half);
                self.dot.widen(f);
                f.set(registers.t[half]);
            }
            return;
        }
        f.load("v128.load", x, 16 * pair).set(registers.x);
        for i in 0..2 * rows {
            splat_dword(f, registers.x, i);
            self.dot.widen(f);
            f.set(registers.t[i]);
        }
    }

    /// `c += (d * dot [+ m * sum]) * xs` for vector `v` of every row; `slot` is its place among the sums.
    fn scale(&self, f: &mut Function, registers: &Registers, v: usize, slot: usize, w: Local, c_rows: &[Local]) {
        let (quants, size, _) = self.block();
        let Registers { d, m, ones, f16_bits, f16_shifts, .. } = registers;
        for (i, &local) in [*d, *m].iter().take(if self.affine() { 2 } else { 1 }).enumerate() {
            if size == 16 {
                f.load("v128.load", w, quants + 64 * i + 16 * v);
            } else {
                // f16 to f32 * 2^-112: the exponent's bias is made up for in xs. Subnormals come out right. A product
                // shifts the one of a pair and drops the other: JSC makes a shift out of four instructions.
                f.load("v128.load", w, quants + 32 * i + 16 * (v / 2)).get(f16_shifts[v % 2]);
                f.op("i32x4.dot_i16x8_s").get(*f16_bits).op("v128.and");
            }
            f.set(local);
        }
        for row in 0..self.rows {
            let kept = registers.kept.get(v).copied();
            match kept {
                Some(local) => f.get(local),
                None => f.get(c_rows[row]).load("v128.load", c_rows[row], 16 * v),
            };
            self.dot.finish(f, registers.sums_of(self, row, slot), *ones);
            f.op("f32x4.convert_i32x4_s").get(*d).op("f32x4.mul");
            if self.affine() {
                f.get(*m).get(registers.x_sums[row]).op("f32x4.mul").op("f32x4.add");
            }
            f.get(registers.xs[row]).op("f32x4.mul").op("f32x4.add");
            match kept {
                Some(local) => f.set(local),
                None => f.op(&format!("v128.store {}", 16 * v)),
            };
        }
    }
}

/// Where four k of vector `v` lie in a block of bytes.
fn byte_offset(v: usize, group: usize) -> usize {
    256 * (v / 2) + 32 * group + 16 * (v % 2)
}

fn splat_dword(f: &mut Function, vector: Local, dword: usize) {
    let lanes: Vec<String> = (0..16).map(|i| (4 * dword + i % 4).to_string()).collect();
    f.get(vector).get(vector).op(&format!("i8x16.shuffle {}", lanes.join(", ")));
}

/// The locals of a kernel; engines have 16 registers for what is live of them.
struct Registers {
    constants: [Local; 3],
    low_bits: Local,
    ones: Local,
    f16_bits: Local,
    /// For the even and for the odd f16 of a vector.
    f16_shifts: [Local; 2],
    /// By row, then by vector, then the `Dot`'s own.
    sums: Vec<Vec<Local>>,
    kept: Vec<Local>,
    t: Vec<Local>,
    x: Local,
    weight: Local,
    unpacked: Local,
    d: Local,
    m: Local,
    xs: Vec<Local>,
    x_sums: Vec<Local>,
}

impl Registers {
    fn new(f: &mut Function, tile: &Tile) -> Self {
        let constants = std::array::from_fn(|_| f.v128());
        let [low_bits, ones, f16_bits] = constants;
        Registers {
            constants,
            low_bits,
            ones,
            f16_bits,
            f16_shifts: [f.v128(), f.v128()],
            sums: (0..tile.rows).map(|_| f.v128s(tile.vectors * tile.dot.sums())).collect(),
            kept: Vec::new(),
            t: f.v128s(2 * tile.rows),
            x: f.v128(),
            weight: f.v128(),
            unpacked: f.v128(),
            d: f.v128(),
            m: f.v128(),
            xs: f.v128s(tile.rows),
            x_sums: f.v128s(tile.rows),
        }
    }

    fn load_shifts(&self, f: &mut Function, constants: Local) {
        for (i, &shift) in self.f16_shifts.iter().enumerate() {
            f.load("v128.load", constants, F16_SHIFTS + 16 * i).set(shift);
        }
    }

    fn sums_of(&self, tile: &Tile, row: usize, slot: usize) -> &[Local] {
        let n = tile.dot.sums();
        &self.sums[row][slot * n..][..n]
    }
}
