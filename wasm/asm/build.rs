//! Writes the inner kernels as WASM assembly, which `src/tile.rs` includes.
//!
//! They are not written in Rust because LLVM's WASM backend moves loads away from their use: a straight-line block of
//! dots ends with dozens of live vectors, and both V8 and JSC then spill on every line. Assembly keeps the order.

mod dot;
mod function;
mod tile;

use tile::{Dot, Tile, Weights};

fn main() {
    println!("cargo::rerun-if-changed=asm");
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    let relaxed = features.split(',').any(|feature| feature == "relaxed-simd");
    let mut text = String::new();
    let mut add = |rows, vectors, weights, dot| text += &Tile { rows, vectors, weights, dot }.text();
    for affine in [false, true] {
        let nibbles = Weights::Nibbles { affine };
        let bytes = Weights::Bytes { affine };
        add(1, 4, nibbles, Dot::Plain);
        // Two sums per vector: four vectors of two rows would not fit in 16 registers.
        add(2, 2, nibbles, Dot::Plain);
        for dot in [Dot::I32, Dot::I16] {
            if !relaxed {
                continue;
            }
            add(1, 4, nibbles, dot);
            add(2, 4, nibbles, dot);
            add(2, 4, bytes, dot);
        }
    }
    add(1, 4, Weights::Int8, Dot::Plain);
    add(2, 2, Weights::Int8, Dot::Plain);
    if relaxed {
        add(1, 4, Weights::Int8, Dot::I32);
        add(2, 4, Weights::Int8, Dot::I32);
        add(1, 4, Weights::Int8, Dot::Single);
        add(2, 4, Weights::Int8, Dot::Single);
    }
    let path = std::path::Path::new(&std::env::var_os("OUT_DIR").unwrap()).join("tiles.s");
    std::fs::write(path, text).unwrap();
}
