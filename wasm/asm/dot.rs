//! The three inner instructions. All are exact in integers, so that they give the same bits.

use crate::function::{Function, Local};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Dot {
    /// `i32x4.relaxed_dot_i8x16_i7x16_add_s`: one instruction where the engine has VNNI or SDOT behind it.
    /// Exact for weights up to 127; up to 255 where it takes them as unsigned and does not saturate.
    I32,
    /// `i16x8.relaxed_dot_i8x16_i7x16_s` and 16-bit sums over a block, for engines that build the other out of three.
    /// Exact for int4 only: a pair is at most 2 * 127 * 15, half a block with its start at most
    /// 16 * 11 * 127 + 16 * 4 * 127 = 30480.
    I16,
    /// `i16x8.relaxed_dot_i8x16_i7x16_s` of the even activations and of the odd ones: with one product in a lane, of at
    /// most 127 * 255, nothing saturates. Exact for all bytes where weights above 127 are taken as unsigned.
    Single,
    /// `i32x4.dot_i16x8_s` on widened bytes: SIMD128 without relaxed instructions. Exact for all bytes.
    Plain,
}

impl Dot {
    pub fn name(self) -> &'static str {
        match self {
            Dot::I32 => "i32",
            Dot::I16 => "i16",
            Dot::Single => "single",
            Dot::Plain => "plain",
        }
    }

    /// Sums per vector of four columns. `Plain` keeps columns 0, 1 and columns 2, 3 apart, two lanes each.
    pub fn sums(self) -> usize {
        if self == Dot::Plain {
            2
        } else {
            1
        }
    }

    /// From the stack's four activations, the same in each dword, to what `add` wants.
    pub fn widen(self, f: &mut Function) {
        if self == Dot::Plain {
            f.op("i16x8.extend_low_i8x16_s");
        }
    }

    /// Whether the first products of a sum that starts from nothing have to be added to a 0.
    pub fn starts_from_zero(self) -> bool {
        self == Dot::I32
    }

    /// `sums += activations * weights`, four products for each of four columns, or `sums =` where they are the `first`.
    /// `weights` are unsigned. Not for `Single`.
    pub fn add(self, f: &mut Function, sums: &[Local], activations: Local, weights: Local, first: bool) {
        let accumulate = |f: &mut Function, add: &str, sum: Local| {
            if !first {
                f.get(sum).op(add);
            }
            f.set(sum);
        };
        match self {
            Dot::I32 => {
                f.get(activations).get(weights).get(sums[0]);
                f.op("i32x4.relaxed_dot_i8x16_i7x16_add_s").set(sums[0]);
            }
            Dot::I16 => {
                f.get(activations).get(weights).op("i16x8.relaxed_dot_i8x16_i7x16_s");
                accumulate(f, "i16x8.add", sums[0]);
            }
            Dot::Single => unreachable!(),
            Dot::Plain => {
                for (half, &sum) in ["low", "high"].iter().zip(sums) {
                    f.get(weights).op(&format!("i16x8.extend_{half}_i8x16_u"));
                    f.get(activations).op("i32x4.dot_i16x8_s");
                    accumulate(f, "i32x4.add", sum);
                }
            }
        }
    }

    /// `Single`'s `add`: of the `even` activations and of the `odd`, each with 0 in the others' places. `ones` holds i16 ones.
    pub fn add_single(f: &mut Function, sum: Local, [even, odd]: [Local; 2], weights: Local, ones: Local) {
        for activations in [even, odd] {
            f.get(activations).get(weights).op("i16x8.relaxed_dot_i8x16_i7x16_s");
            f.get(ones).op("i32x4.dot_i16x8_s").get(sum).op("i32x4.add").set(sum);
        }
    }

    /// From the stack's `-4 * sum(x)`, an i16 in every lane, to what a sum starts from so that it ends as
    /// `sum((q - zero) * x)`; `shift` is log2(zero / 8).
    pub fn start(self, f: &mut Function, shift: usize) {
        match self {
            Dot::I32 | Dot::Single => f.op("i32x4.extadd_pairwise_i16x8_s"),
            Dot::I16 => return assert_eq!(shift, 0),
            Dot::Plain => f.op("i32x4.extend_low_i16x8_s"),
        };
        if shift > 0 {
            f.i32(shift).op("i32x4.shl");
        }
    }

    /// Pushes the sums of four columns as i32. `ones` holds i16 ones.
    pub fn finish(self, f: &mut Function, sums: &[Local], ones: Local) {
        match self {
            Dot::I32 | Dot::Single => f.get(sums[0]),
            Dot::I16 => f.get(sums[0]).get(ones).op("i32x4.dot_i16x8_s"),
            Dot::Plain => {
                let even = "i8x16.shuffle 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27";
                let odd = "i8x16.shuffle 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31";
                f.get(sums[0]).get(sums[1]).op(even).get(sums[0]).get(sums[1]).op(odd).op("i32x4.add")
            }
        };
    }
}
