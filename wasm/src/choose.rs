//! Which inner instruction is right, and fast, on this engine: asked of the engine by values.
//!
//! What a relaxed dot gives is up to the engine where a weight is above 127 or a pair leaves 16 bits. Four products
//! 127 * 255 tell what stands behind it:
//!
//! | sum    | behind it                                   | int4  | int8  |
//! |--------|---------------------------------------------|-------|-------|
//! | 129540 | unsigned, 32-bit sums (x64 with VNNI)       | I32   | I32   |
//! | -508   | signed, 32-bit sums (ARM with SDOT)         | I32   | Plain |
//! | 65534  | unsigned, 16-bit pairs that saturate (x64)  | I16   | both  |
//! | other  | 16-bit pairs, several instructions a dot    | I16   | Plain |
//!
//! Where both are right JSC is faster with the one, V8 with the other: `trial.rs` finds out.

use crate::layout::Weights;
use crate::tile::Dot;

#[cfg(target_feature = "relaxed-simd")]
fn probe() -> i32 {
    use std::arch::wasm32::*;
    use std::hint::black_box;
    // From memory and unknown to the compiler: a folded constant would not ask the engine.
    let x = black_box([127u8; 16]);
    let w = black_box([255u8; 16]);
    let acc = black_box([0u8; 16]);
    unsafe {
        let load = |bytes: &[u8; 16]| v128_load(bytes.as_ptr().cast());
        i32x4_extract_lane::<0>(i32x4_relaxed_dot_i8x16_i7x16_add(load(&x), load(&w), load(&acc)))
    }
}

#[cfg(not(target_feature = "relaxed-simd"))]
fn probe() -> i32 {
    0
}

/// The instruction to use for such weights.
pub fn choose(weights: Weights) -> Dot {
    let relaxed = cfg!(target_feature = "relaxed-simd");
    match (weights, probe()) {
        _ if !relaxed => Dot::Plain,
        (_, 129_540) => Dot::I32,
        (Weights::Int8, _) => Dot::Plain,
        (_, -508) => Dot::I32,
        _ => Dot::I16,
    }
}

/// Another instruction that is right for such weights, and may be faster than the one that `choose` names.
pub fn other(weights: Weights) -> Option<Dot> {
    (weights == Weights::Int8 && probe() == 65_534).then_some(Dot::I16)
}
