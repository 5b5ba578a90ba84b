//! Which of two ways of running a product is faster here.
//!
//! Both give the same bits, so they take turns until enough was seen of both, in the passes that have to be run anyway.
//! Asking earlier would ask the engine's first, slow code. Only the coordinating thread asks.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::clock::now;

/// Calls before the other way has its turn: a layer's matrices, so that both see all shapes.
const TURN: u32 = 4;
/// Calls that are not counted, while engines still compile.
const WARM_UP: u32 = 16 * TURN;
/// Calls after which the faster way stays.
const END: u32 = WARM_UP + 24 * TURN;

/// Two ways to choose from.
#[derive(Clone, Copy)]
pub enum Ways {
    /// int4 straight from the layout, or expanded to bytes first.
    Expand,
    /// One instruction or another, where both are right.
    Dot,
}

/// By ways, and by rows of a product: what expanding costs is shared by all rows.
static TRIALS: [[Trial; 5]; 2] = [const { [const { Trial::new() }; 5] }; 2];

struct Trial {
    calls: AtomicU32,
    /// Least time per product of numbers, as f32, by way.
    best: [AtomicU32; 2],
}

/// Calls `run(second)` for a product of `m` rows with `[n, k]`.
pub fn try_both(ways: Ways, m: usize, n: usize, k: usize, run: impl FnOnce(bool)) {
    let trial = &TRIALS[ways as usize][match m {
        0..2 => 0,
        2..4 => 1,
        4..16 => 2,
        16..64 => 3,
        _ => 4,
    }];
    let call = trial.calls.load(Relaxed);
    let best = |way: usize| f32::from_bits(trial.best[way].load(Relaxed));
    if call >= END {
        return run(best(1) < best(0));
    }
    let way = call / TURN % 2;
    let start = now();
    run(way == 1);
    let time = (now() - start) as f32 / (m * n * k) as f32;
    trial.calls.store(call + 1, Relaxed);
    if call >= WARM_UP && time < best(way as usize) {
        trial.best[way as usize].store(time.to_bits(), Relaxed);
    }
}

impl Trial {
    const fn new() -> Self {
        Trial { calls: AtomicU32::new(0), best: [const { AtomicU32::new(f32::INFINITY.to_bits()) }; 2] }
    }
}
