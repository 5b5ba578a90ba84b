//! f16 as bits.

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

/// The f16's value.
pub fn f16_to_f32(bits: u16) -> f32 {
    f16_to_scaled_f32(bits) * F16_SCALE
}

/// 2^112
pub const F16_SCALE: f32 = f32::from_bits((127 + 112) << 23);
