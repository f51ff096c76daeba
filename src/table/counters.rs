//! Live bytes and blocks of the present generation, and their peak.
//!
//! Each thread slot has one writer and one unlocked add, so a signal handler on the same thread loses no count. A slot
//! hands its bytes on to the process-wide total once they moved by [`WINDOW`]: the sum is exact, the peak is exact within
//! slots x 64 KiB. A slot keeps two sets, for the generation and the one before it: a hook that still runs in the
//! older one counts there, and one of a generation that is older still counts nowhere. The slot that many threads share
//! counts in process-wide words that hold their generation. Runs inside an allocation.

use core::sync::atomic::{
    AtomicI64, AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use crate::thread::{self, Slot};
use crate::trace::generation::{Control, control};

/// How far a slot's bytes may run ahead of the total.
pub(crate) const WINDOW: i64 = 64 << 10;

/// One generation's counts in one slot. The counters are never set back, which would lose what a handler adds
/// meanwhile: a generation is what they moved since it began.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Set {
    bytes: AtomicI64,
    blocks: AtomicI64,
    bytes_before: AtomicI64,
    blocks_before: AtomicI64,
    generation: AtomicU32,
}

impl Set {
    pub(crate) const fn new() -> Self {
        Self {
            bytes: AtomicI64::new(0),
            blocks: AtomicI64::new(0),
            bytes_before: AtomicI64::new(0),
            blocks_before: AtomicI64::new(0),
            generation: AtomicU32::new(0),
        }
    }
    #[inline(always)]
    fn bytes(&self) -> i64 {
        self.bytes.load(Relaxed).wrapping_sub(self.bytes_before.load(Relaxed))
    }
    fn blocks(&self) -> i64 {
        self.blocks.load(Relaxed).wrapping_sub(self.blocks_before.load(Relaxed))
    }
}

/// Adds without a lock and without a moment at which an interrupting handler's add could be lost.
#[inline(always)]
pub(crate) fn add(counter: &AtomicI64, n: i64, shared: bool) {
    #[cfg(native)]
    if !shared {
        // SAFETY: one instruction on a live counter that only this thread (and its signal handlers, for which one
        // instruction is indivisible) writes; other threads only load it, and an aligned 8-byte store doesn't tear.
        unsafe {
            core::arch::asm!("add qword ptr [{}], {}", in(reg) counter.as_ptr(), in(reg) n, options(nostack));
        }
        return;
    }
    let _ = shared;
    counter.fetch_add(n, Relaxed);
}

/// As [`add`], of one and where there is one writer.
#[inline(always)]
pub(crate) fn add_one(counter: &AtomicI64) {
    #[cfg(native)]
    // SAFETY: as in `add`.
    unsafe {
        core::arch::asm!("add qword ptr [{}], 1", in(reg) counter.as_ptr(), options(nostack));
    }
    #[cfg(not(native))]
    counter.fetch_add(1, Relaxed);
}

/// Counts a block in (`+size`, `+1`) or out.
#[inline(always)]
pub(crate) fn count(slot: &Slot, control: Control, bytes: i64, blocks: i64) {
    if slot.shared {
        return count_shared(control, bytes, blocks);
    }
    // Two sets, and parity is 0 or 1.
    let set = if control.parity() == 0 { &slot.counts.0 } else { &slot.counts.1 };
    if set.generation.load(Relaxed) != control.first() && !begin(set, control) {
        return;
    }
    add(&set.blocks, blocks, false);
    add(&set.bytes, bytes, false);
    let ahead = set.bytes();
    if ahead.wrapping_add(WINDOW) as u64 > (WINDOW as u64).wrapping_mul(2) {
        add(&set.bytes, ahead.wrapping_neg(), false);
        hand_on(control, ahead);
    }
}

/// Begins `control`'s generation in this set; false where the set has gone on to a younger one.
#[cold]
fn begin(set: &Set, control: Control) -> bool {
    let of = set.generation.load(Relaxed);
    let (bytes, blocks) = (set.bytes.load(Relaxed), set.blocks.load(Relaxed));
    if of > control.first() {
        return false; // counted in a generation that is over for good
    }
    // A handler that comes before this look has begun the generation itself, and perhaps counted in it; one that comes
    // after it finds the counters as we did, and what we write then is what it wrote.
    if set.generation.load(Relaxed) == of {
        set.bytes_before.store(bytes, Relaxed);
        set.blocks_before.store(blocks, Relaxed);
        set.generation.store(control.first(), Release);
    }
    true
}

#[cold]
#[inline(never)]
fn count_shared(control: Control, bytes: i64, blocks: i64) {
    add_to(&BLOCKS, control, blocks);
    hand_on(control, bytes);
}

/// The process-wide total of handed-on bytes, with the low bits of its generation: a late hook adds nothing to a
/// younger one. 46 bits of bytes, signed, and 18 of the first id.
static TOTAL: AtomicU64 = AtomicU64::new(0);
/// Live blocks that threads without a slot of their own counted, with their generation.
static BLOCKS: AtomicU64 = AtomicU64::new(0);
static PEAK: AtomicU64 = AtomicU64::new(0);

const TAG: u32 = 46;
const BYTES: u64 = (1 << TAG) - 1;
fn pack(first: u32, bytes: i64) -> u64 {
    (u64::from(first) << TAG) | (bytes as u64 & BYTES)
}
fn bytes_of(word: u64) -> i64 {
    (word << (64 - TAG)) as i64 >> (64 - TAG)
}
fn same(word: u64, first: u32) -> bool {
    word >> TAG == u64::from(first) & (u64::MAX >> TAG)
}

#[cold]
#[inline(never)]
fn hand_on(now: Control, ahead: i64) {
    if let Some(total) = add_to(&TOTAL, now, ahead) {
        raise_peak(now, total);
    }
}

/// Adds to a word that holds its generation: the new sum, nothing where `now`'s is over.
fn add_to(word: &AtomicU64, now: Control, n: i64) -> Option<i64> {
    let mut seen = word.load(Relaxed);
    loop {
        let base = if same(seen, now.first()) {
            bytes_of(seen)
        } else if control().first() == now.first() {
            0
        } else {
            return None; // a generation that is over
        };
        let sum = base.wrapping_add(n);
        match word.compare_exchange_weak(seen, pack(now.first(), sum), AcqRel, Relaxed) {
            Ok(_) => return Some(sum),
            Err(other) => seen = other,
        }
    }
}

fn raise_peak(now: Control, total: i64) {
    let mut seen = PEAK.load(Relaxed);
    if !same(seen, now.first()) && control().first() != now.first() {
        return; // a younger generation's peak
    }
    while !same(seen, now.first()) || bytes_of(seen) < total {
        match PEAK.compare_exchange_weak(seen, pack(now.first(), total), AcqRel, Relaxed) {
            Ok(_) => return,
            Err(other) => seen = other,
        }
    }
}

/// Live bytes, live blocks, and the most live bytes there were, of the present generation.
pub(crate) fn traced() -> (u64, u64, u64) {
    let now = control();
    if !now.on() {
        return (0, 0, 0);
    }
    let total = TOTAL.load(Acquire);
    let mut bytes = if same(total, now.first()) { bytes_of(total) } else { 0 };
    let shared = BLOCKS.load(Acquire);
    let mut blocks = if same(shared, now.first()) { bytes_of(shared) } else { 0 };
    thread::slots(&mut |slot| {
        for set in [&slot.counts.0, &slot.counts.1] {
            if set.generation.load(Acquire) == now.first() {
                bytes = bytes.wrapping_add(set.bytes());
                blocks = blocks.wrapping_add(set.blocks());
            }
        }
    });
    // A block may be counted out here before its counting in by another thread is seen.
    let (bytes, blocks) = (bytes.max(0), blocks.max(0));
    raise_peak(now, bytes);
    let peak = PEAK.load(Acquire);
    let peak = if same(peak, now.first()) { bytes_of(peak) } else { 0 };
    (bytes as u64, blocks as u64, peak.max(bytes) as u64)
}

/// Forgets the peak: it is the present size from here on.
pub(crate) fn reset_peak() {
    let now = control();
    let (bytes, ..) = traced();
    PEAK.store(pack(now.first(), bytes as i64), Relaxed);
}
