//! Threads that share a pass: one coordinates, the others help it with one task at a time.
//!
//! A task is cut into parts, and each thread has a share of them that lie side by side: it takes these from the first to
//! the last, then what others have left of theirs. The door of the task stands open while there are parts left. Then the
//! coordinator closes it and waits for the helpers that are inside, not for those that never came: on a busy machine a
//! helper may get no core for milliseconds, and nobody needs it.
//!
//! A thread that waits spins for a while, since the next task comes within microseconds during a pass and waking a
//! sleeper takes tens of them; then it sleeps, so that an idle engine costs nothing and a busy machine gets its core
//! back. Spinning is limited by time, not by turns: a turn takes several times longer in one engine than in another.
//!
//! No wake-up is lost: whoever goes to sleep counts itself first and then waits for a value that still has to be the
//! old one; whoever changes the value looks at the count afterwards. All of it is sequentially consistent.

use std::cell::UnsafeCell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};

use wasm_bindgen::prelude::wasm_bindgen;

#[cfg(target_feature = "atomics")]
use crate::clock::now;

/// Takes parts until there are none, on the thread of that number; 0 is the coordinator.
type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// How long to spin, in milliseconds.
#[cfg(target_feature = "atomics")]
const SPIN_MS: f64 = 0.2;
/// Looks at a value between two looks at the clock.
#[cfg(target_feature = "atomics")]
const TURNS: u32 = 50;

/// The door: `task number << 8 | OPEN | helpers inside`.
const OPEN: u32 = 0x80;
const INSIDE: u32 = 0x7f;
const NEXT_TASK: u32 = 0x100;

/// A number that threads wait for, alone in its cache line.
#[repr(align(64))]
struct Signal {
    value: AtomicU32,
    #[cfg_attr(not(target_feature = "atomics"), allow(dead_code))]
    sleeping: AtomicU32,
}

/// The next part of a thread's share, alone in its cache line.
#[repr(align(64))]
struct Cursor(AtomicUsize);

/// Threads at most.
const MOST: usize = INSIDE as usize + 1;

struct Crew {
    /// Threads in all, the coordinator included.
    size: AtomicU32,
    door: Signal,
    /// Written while the door is closed and nobody is inside.
    next: [Cursor; MOST],
    /// Counts how often the last helper left through a closed door.
    empty: Signal,
    /// What is being done; read by those who came in, written while the door is closed and nobody is inside.
    task: UnsafeCell<Option<&'static Task<'static>>>,
    dismissed: AtomicBool,
    failed: AtomicBool,
}

unsafe impl Sync for Crew {}

static CREW: Crew = Crew {
    size: AtomicU32::new(1),
    door: Signal::new(),
    next: [const { Cursor(AtomicUsize::new(0)) }; MOST],
    empty: Signal::new(),
    task: UnsafeCell::new(None),
    dismissed: AtomicBool::new(false),
    failed: AtomicBool::new(false),
};

/// Says how many threads there are, at most 128. Each of the others has called `help`, or will.
#[wasm_bindgen]
pub fn set_threads(threads: u32) {
    CREW.size.store(threads.clamp(1, MOST as u32), SeqCst);
}

/// Helps with the coordinator's tasks as thread number `thread`, 1 and up, until `dismiss`.
#[wasm_bindgen]
pub fn help(thread: usize) {
    let mut seen = 0;
    loop {
        let state = CREW.door.wait_until(|state| state / NEXT_TASK != seen || CREW.dismissed.load(SeqCst));
        if CREW.dismissed.load(SeqCst) {
            return;
        }
        let inside = state & OPEN != 0 && CREW.door.value.compare_exchange(state, state + 1, SeqCst, SeqCst).is_ok();
        if inside {
            if let Some(task) = unsafe { *CREW.task.get() } {
                task(thread);
            }
            leave();
        }
        // Another helper may have come in between: then this one looks again.
        if inside || state & OPEN == 0 {
            seen = state / NEXT_TASK;
        }
    }
}

fn leave() {
    let state = CREW.door.value.fetch_sub(1, SeqCst);
    if state & (OPEN | INSIDE) == 1 {
        CREW.empty.value.fetch_add(1, SeqCst);
        CREW.empty.wake();
    }
}

/// For the thread whose `help` trapped in a task: the coordinator need not wait for it, and traps too.
#[wasm_bindgen]
pub fn help_failed() {
    CREW.failed.store(true, SeqCst);
    leave();
}

/// Sends all helpers home and goes on alone.
#[wasm_bindgen]
pub fn dismiss() {
    CREW.size.store(1, SeqCst);
    CREW.dismissed.store(true, SeqCst);
    CREW.door.value.fetch_add(NEXT_TASK, SeqCst);
    CREW.door.wake();
}

/// Threads in all.
pub fn count() -> usize {
    CREW.size.load(SeqCst) as usize
}

/// Runs `work(thread, part)` over parts that make up `0..items`, on all threads that have time. Parts have at least
/// `least` items, except the last.
pub fn for_parts(items: usize, least: usize, work: impl Fn(usize, Range<usize>) + Sync) {
    let threads = count();
    // Four parts a thread: what the last one to finish has left is small.
    let size = least.max(items.div_ceil(4 * threads));
    if threads == 1 || items <= size {
        return work(0, 0..items);
    }
    let parts = items.div_ceil(size);
    let share = |thread: usize| thread * parts / threads;
    for (thread, next) in CREW.next[..threads].iter().enumerate() {
        next.0.store(share(thread), SeqCst);
    }
    run(&|thread| {
        // Weights are read up to half as fast again where a thread's parts follow each other in memory: what fetches
        // ahead starts anew at every jump.
        for owner in (0..threads).map(|i| (thread + i) % threads) {
            loop {
                let part = CREW.next[owner].0.fetch_add(1, SeqCst);
                if part >= share(owner + 1) {
                    break;
                }
                work(thread, part * size..items.min((part + 1) * size));
            }
        }
    });
}

fn run(task: &Task) {
    // No helper has it any more when the last one has left.
    unsafe { *CREW.task.get() = Some(std::mem::transmute::<&Task, &'static Task<'static>>(task)) };
    let number = CREW.door.value.load(SeqCst) / NEXT_TASK + 1;
    CREW.door.value.store(number.wrapping_mul(NEXT_TASK) | OPEN, SeqCst);
    CREW.door.wake();
    task(0);
    CREW.door.value.fetch_and(!OPEN, SeqCst);
    loop {
        let times = CREW.empty.value.load(SeqCst);
        if CREW.door.value.load(SeqCst) & INSIDE == 0 {
            break;
        }
        CREW.empty.wait_until(|now| now != times);
    }
    assert!(!CREW.failed.load(SeqCst), "a thread of the engine failed");
}

impl Signal {
    const fn new() -> Self {
        Signal { value: AtomicU32::new(0), sleeping: AtomicU32::new(0) }
    }

    /// After a change of the value.
    fn wake(&self) {
        #[cfg(target_feature = "atomics")]
        if self.sleeping.load(SeqCst) > 0 {
            unsafe { std::arch::wasm32::memory_atomic_notify(self.value.as_ptr().cast(), u32::MAX) };
        }
    }

    /// The first value seen that `wanted` says yes to.
    #[cfg(target_feature = "atomics")]
    fn wait_until(&self, wanted: impl Fn(u32) -> bool) -> u32 {
        let start = now();
        while now() < start + SPIN_MS {
            for _ in 0..TURNS {
                let value = self.value.load(SeqCst);
                if wanted(value) {
                    return value;
                }
            }
        }
        self.sleeping.fetch_add(1, SeqCst);
        let value = loop {
            let value = self.value.load(SeqCst);
            if wanted(value) {
                break value;
            }
            unsafe { std::arch::wasm32::memory_atomic_wait32(self.value.as_ptr().cast(), value as i32, -1) };
        };
        self.sleeping.fetch_sub(1, SeqCst);
        value
    }

    #[cfg(not(target_feature = "atomics"))]
    fn wait_until(&self, _wanted: impl Fn(u32) -> bool) -> u32 {
        unreachable!("this build has one thread")
    }
}

/// A slice of which each thread writes its own part.
#[derive(Clone, Copy)]
pub struct Shared<T>(*mut T, usize);

unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub fn new(slice: &mut [T]) -> Self {
        Shared(slice.as_mut_ptr(), slice.len())
    }

    pub fn pointer(&self) -> *mut T {
        self.0
    }

    /// # Safety
    /// No other thread has that part.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, part: Range<usize>) -> &mut [T] {
        assert!(part.start <= part.end && part.end <= self.1);
        std::slice::from_raw_parts_mut(self.0.add(part.start), part.len())
    }
}
