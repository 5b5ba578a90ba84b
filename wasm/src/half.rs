//! f16 as bits.

use std::arch::wasm32::*;

/// f32 to f16, to nearest, ties to even; `None` where the value is not finite or rounds past 65504.
pub fn f16_from_f32(value: f32) -> Option<u16> {
    let bits = value.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    // 65520 is the first that rounds up to 2^16; infinities and NaN are above.
    if magnitude >= 0x477f_f000 {
        return None;
    }
    let half = if magnitude < 0x3880_0000 {
        // Subnormal: adding 0.5 leaves multiples of 2^-24 in the low bits, rounded by the addition itself.
        (f32::from_bits(magnitude) + 0.5).to_bits() - 0.5f32.to_bits()
    } else {
        let odd = magnitude >> 13 & 1;
        (magnitude - (112 << 23) + 0xfff + odd) >> 13
    };
    Some(sign | half as u16)
}

/// The f16's value times 2^-112, exactly, by moving its bits into an f32: what the kernels compute with.
/// The factor is made up for in the activations' scales.
pub fn f16_to_scaled_f32(bits: u16) -> f32 {
    f32::from_bits((bits as i16 as i32 as u32) << 13 & 0x8fff_e000)
}

/// `f16_to_scaled_f32` of every other f16 of eight: of the `even` ones, or of the odd ones.
pub fn scaled_f32x4_from_f16x8(bits: v128, even: bool) -> v128 {
    let shift = i32x4_splat(if even { 1 << 13 } else { 1 << 29 });
    v128_and(i32x4_dot_i16x8(bits, shift), u32x4_splat(0x8fff_e000))
}

/// The f16's value.
pub fn f16_to_f32(bits: u16) -> f32 {
    f16_to_scaled_f32(bits) * F16_SCALE
}

/// 2^112
pub const F16_SCALE: f32 = f32::from_bits((127 + 112) << 23);

/// Four f16, and in which lanes something happened.
pub struct Halves {
    /// In the low 64 bits; 0 for what does not fit.
    pub bits: v128,
    /// Lanes of 32 bits, all set where the value is another now.
    pub changed: v128,
    /// Where the value is not finite or rounds past 65504.
    pub overflowed: v128,
}

/// `f16_from_f32` of four lanes.
pub fn f16x4_from_f32x4(values: v128) -> Halves {
    let magnitude = v128_and(values, u32x4_splat(0x7fff_ffff));
    let overflowed = i32x4_ge(magnitude, u32x4_splat(0x477f_f000));
    let half = f32x4_splat(0.5);
    let subnormal = i32x4_sub(f32x4_add(magnitude, half), half);
    let odd = v128_and(u32x4_shr(magnitude, 13), u32x4_splat(1));
    let normal = u32x4_shr(i32x4_add(i32x4_add(magnitude, i32x4_splat(0xfff - (112 << 23))), odd), 13);
    let bits = v128_bitselect(subnormal, normal, i32x4_lt(magnitude, u32x4_splat(0x3880_0000)));
    let sign = v128_andnot(i32x4_shr(values, 31), u32x4_splat(0x7fff));
    // Sign-extended to 32 bits, so that narrowing does not saturate.
    let bits = v128_andnot(v128_or(bits, sign), overflowed);
    let scaled = v128_and(i32x4_shl(bits, 13), u32x4_splat(0x8fff_e000));
    let changed = f32x4_ne(f32x4_mul(scaled, f32x4_splat(F16_SCALE)), values);
    Halves { bits: i16x8_narrow_i32x4(bits, bits), changed, overflowed }
}
