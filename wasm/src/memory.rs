//! Memory that may be missing, memory for the caller, and how fast it can be read.
//!
//! What may be large is asked for here and in `reserve`, and there may be no memory for it: the caller is told. Small
//! vectors are not asked for: a failure of one traps. So whatever is given here leaves `spare_bytes` behind for them.

use std::alloc::{alloc, alloc_zeroed, dealloc, Layout};
use std::arch::wasm32::*;
use std::hint::black_box;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice::{from_raw_parts, from_raw_parts_mut};

use wasm_bindgen::prelude::wasm_bindgen;

use crate::threads;

/// A cache line: no two threads write to one by accident.
const ALIGN: usize = 64;

fn layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes.max(1), ALIGN).ok()
}

/// What the small vectors of a pass take together, and more: lists of its work, and what each thread keeps meanwhile.
fn spare_bytes() -> usize {
    (256 << 10) + threads::count() * (64 << 10)
}

/// Whether small vectors have room. The compiler may leave out an allocation that nobody uses, and take it for granted:
/// it must not see that this is one.
pub fn spare_is_left() -> bool {
    black_box(AlignedBytes::claim(spare_bytes())).is_some()
}

/// Makes room for `count` items in a buffer whose contents nobody needs. Returns false, with the buffer empty, when the
/// memory is not there.
pub fn reserve<T>(buffer: &mut Vec<T>, count: usize) -> bool {
    if buffer.capacity() >= count {
        return true;
    }
    // Given back first: there need not be room for both.
    *buffer = Vec::new();
    let reserved = buffer.try_reserve_exact(count).is_ok() && spare_is_left();
    if !reserved {
        *buffer = Vec::new();
    }
    reserved
}

/// Bytes on a cache line's border, so that no vector of packed weights lies across two. Not zeroed: clearing gigabytes
/// that are about to be written takes as long as writing them.
pub struct AlignedBytes {
    start: NonNull<u8>,
    layout: Layout,
}

impl AlignedBytes {
    /// `None` when the memory is not there.
    pub fn new(bytes: usize) -> Option<Self> {
        let claimed = Self::claim(bytes)?;
        spare_is_left().then_some(claimed)
    }

    fn claim(bytes: usize) -> Option<Self> {
        let layout = layout(bytes)?;
        Some(AlignedBytes { start: NonNull::new(unsafe { alloc(layout) })?, layout })
    }
}

/// Owns its bytes, as `Vec` does.
unsafe impl Send for AlignedBytes {}
unsafe impl Sync for AlignedBytes {}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        unsafe { from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        unsafe { from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }
}

/// Zeroed memory, 64-byte aligned; 0 when there is not so much. Views of the memory go stale when it grows.
#[wasm_bindgen]
pub fn allocate(bytes: usize) -> usize {
    let Some(layout) = layout(bytes) else { return 0 };
    let pointer = unsafe { alloc_zeroed(layout) };
    if pointer.is_null() || spare_is_left() {
        return pointer as usize;
    }
    unsafe { dealloc(pointer, layout) };
    0
}

/// Takes back what `allocate(bytes)` gave.
#[wasm_bindgen]
pub fn release(pointer: usize, bytes: usize) {
    if let Some(layout) = layout(bytes) {
        unsafe { dealloc(pointer as *mut u8, layout) }
    }
}

/// Reads `bytes` (a multiple of 128) with eight independent loads at a time: the bound of a kernel that streams its
/// weights. Returns a sum so that nothing is left out.
pub fn read_memory(pointer: usize, bytes: usize) -> i32 {
    let mut sums = [i32x4_splat(0); 8];
    let mut at = pointer as *const v128;
    for _ in 0..bytes / 128 {
        unsafe {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = i32x4_add(*sum, v128_load(at.add(i)));
            }
            at = at.add(8);
        }
    }
    let sum = sums.into_iter().reduce(|a, b| i32x4_add(a, b)).unwrap();
    i32x4_extract_lane::<0>(sum)
        + i32x4_extract_lane::<1>(sum)
        + i32x4_extract_lane::<2>(sum)
        + i32x4_extract_lane::<3>(sum)
}
