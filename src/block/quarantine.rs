//! Where freed blocks wait, filled, until their bytes are needed: a ring for each thread slot, one bound for all.
//!
//! The owner pushes with plain stores; whoever takes the oldest out claims them by a compare-and-swap on the tail, a few
//! at a time. Each ring may hold its share of the bound: `budget / rings in use`. The ring of a thread that ended is
//! emptied by the others before their own. Runs inside an allocation.

use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use super::{heap, inner, layout};
use crate::thread::{self, Slot};
use crate::{dropped, sys};

/// A block counts with at least so many bytes.
const LEAST: usize = 64;
/// Blocks claimed at a time.
const BATCH: usize = 8;

static BUDGET: AtomicUsize = AtomicUsize::new(0);
/// Rings in use or left by a thread that ended.
static RINGS: AtomicU32 = AtomicU32::new(0);
static ORPHANS: AtomicU32 = AtomicU32::new(0);
/// `BUDGET / RINGS`.
static SHARE: AtomicUsize = AtomicUsize::new(0);

/// One freed block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub address: usize,
    /// Its inner allocator's number.
    pub inner: u8,
    /// The free's trace.
    pub freed_by: u32,
    /// The thread that freed it, by its number in `thread::names`.
    pub thread: u32,
    /// As its record says: known here, so that a block can be verified before its word has come from memory.
    pub size: usize,
    pub align: usize,
}

#[repr(C)]
struct Cell {
    /// Address, and the inner allocator's number in the upper 8 bits.
    block: AtomicU64,
    /// The free's trace in the lower half, its thread in the upper.
    free: AtomicU64,
    /// Size, and the alignment's logarithm in the lower 6 bits.
    shape: AtomicU64,
}

impl Cell {
    #[inline(always)]
    fn read(&self) -> Entry {
        let (block, free) = (self.block.load(Relaxed), self.free.load(Relaxed));
        let shape = self.shape.load(Relaxed);
        Entry {
            address: (block & ((1 << 56) - 1)) as usize,
            inner: (block >> 56) as u8,
            freed_by: free as u32,
            thread: (free >> 32) as u32,
            size: (shape >> 6) as usize,
            align: 1usize.wrapping_shl(shape as u32 & 63),
        }
    }
    #[inline(always)]
    fn write(&self, entry: &Entry) {
        self.block.store(entry.address as u64 | u64::from(entry.inner) << 56, Relaxed);
        self.free.store(u64::from(entry.freed_by) | u64::from(entry.thread) << 32, Relaxed);
        self.shape.store((entry.size as u64) << 6 | u64::from(entry.align.trailing_zeros()), Relaxed);
    }
}

const UNUSED: u32 = 0;
const OWNED: u32 = 1;
const ORPHAN: u32 = 2;

/// A slot's part of the quarantine, in one line of the cache.
#[repr(C, align(64))]
pub(crate) struct Ring {
    cells: AtomicPtr<Cell>,
    /// Cells, a power of two; set with `cells`.
    length: AtomicUsize,
    state: AtomicU32,
    head: AtomicUsize,
    /// Bytes ever pushed: the owner's alone.
    pushed: AtomicU64,
    tail: AtomicUsize,
    /// Bytes ever taken out.
    taken: AtomicU64,
    /// It came over a fork: a thread that the child doesn't have may have been at work in it, so `pushed` and `taken` may
    /// differ by blocks that are gone.
    inherited: AtomicBool,
}

impl Ring {
    pub(crate) const fn new() -> Self {
        Self {
            cells: AtomicPtr::new(core::ptr::null_mut()),
            length: AtomicUsize::new(0),
            state: AtomicU32::new(UNUSED),
            head: AtomicUsize::new(0),
            pushed: AtomicU64::new(0),
            tail: AtomicUsize::new(0),
            taken: AtomicU64::new(0),
            inherited: AtomicBool::new(false),
        }
    }

    /// Bytes that wait; of a ring that came over a fork perhaps a little less than none.
    #[inline(always)]
    fn signed_bytes(&self) -> i64 {
        self.pushed.load(Relaxed).wrapping_sub(self.taken.load(Relaxed)) as i64
    }

    fn bytes(&self) -> usize {
        self.signed_bytes().max(0) as usize
    }

    #[inline(always)]
    fn holds_more_than(&self, bytes: usize) -> bool {
        self.signed_bytes() > bytes as i64
    }

    /// An empty ring holds nothing, whatever went under with a fork. Its owner only.
    fn settle(&self) {
        if self.tail.load(Acquire) == self.head.load(Acquire) && self.inherited.swap(false, Relaxed) {
            self.pushed.store(self.taken.load(Relaxed), Relaxed);
        }
    }
}

/// Sets the bound in bytes.
pub(crate) fn set_budget(bytes: usize) {
    BUDGET.store(bytes, Relaxed);
    share();
}

fn share() {
    let (budget, rings) = (BUDGET.load(Relaxed), RINGS.load(Relaxed) as usize);
    SHARE.store(budget.checked_div(rings).unwrap_or(budget), Relaxed);
}

/// What a block counts against the bound.
#[inline(always)]
fn charge(size: usize, align: usize) -> usize {
    let outer = size.wrapping_add(layout::front(align)).wrapping_add(layout::ZONE);
    if outer < LEAST { LEAST } else { outer }
}

/// Keeps a freed block, and lets the oldest ones go. False: no room, the block is the caller's still.
///
/// # Safety
/// The slot is this thread's, and no other push of this thread is under way. The block is freed, filled, its word says
/// quarantined, and `entry.inner` is where it goes back to.
#[inline(always)]
pub(crate) unsafe fn push(slot: &Slot, entry: Entry) -> bool {
    let charge = charge(entry.size, entry.align);
    let ring = &slot.ring;
    if ring.state.load(Relaxed) != OWNED && !begin(slot) {
        return false;
    }
    let share = SHARE.load(Relaxed);
    if charge > share || entry.inner == 0 {
        return false;
    }
    let (cells, length) = (ring.cells.load(Relaxed), ring.length.load(Relaxed));
    let head = ring.head.load(Relaxed);
    if head.wrapping_sub(ring.tail.load(Acquire)) >= length && !make_place(ring, head) {
        return false;
    }
    // SAFETY: the index is masked by the length; the cell lies outside tail..head, so nobody's claim of it can succeed.
    let cell = unsafe { &*cells.add(head & length.wrapping_sub(1)) };
    cell.write(&entry);
    ring.pushed.store(ring.pushed.load(Relaxed).wrapping_add(charge as u64), Relaxed);
    ring.head.store(head.wrapping_add(1), Release);
    if ring.holds_more_than(share) {
        make_room(ring);
    }
    true
}

/// All cells of a ring are taken: its oldest go. Whether there is one now.
#[cold]
#[inline(never)]
fn make_place(ring: &Ring, head: usize) -> bool {
    // SAFETY: the owner's; no lock and no borrow of the ring is held here.
    unsafe { evict::<true>(ring) };
    head.wrapping_sub(ring.tail.load(Acquire)) < ring.length.load(Relaxed)
}

/// A ring holds more than its share: its oldest go. What threads that ended have left goes first, which makes the shares of
/// the others larger.
#[inline(never)]
fn make_room(ring: &Ring) {
    if ORPHANS.load(Relaxed) != 0 {
        evict_orphans();
    }
    // SAFETY: the owner's; no lock and no borrow of the ring is held here.
    while ring.holds_more_than(SHARE.load(Relaxed)) && unsafe { evict::<true>(ring) } != 0 {}
    ring.settle();
}

#[cold]
#[inline(never)]
fn begin(slot: &Slot) -> bool {
    if slot.shared {
        return false;
    }
    let ring = &slot.ring;
    if ring.cells.load(Relaxed).is_null() {
        let length = (BUDGET.load(Relaxed) / LEAST).clamp(64, 1 << 22).next_power_of_two();
        let Some(fresh) = sys::map(length.wrapping_mul(size_of::<Cell>())) else {
            dropped::QUARANTINE.add(1);
            return false;
        };
        ring.length.store(length, Relaxed);
        ring.cells.store(fresh.as_ptr().cast(), Release);
    }
    let before = ring.state.swap(OWNED, AcqRel);
    ring.settle();
    if before == ORPHAN {
        ORPHANS.fetch_sub(1, Relaxed);
        return true;
    }
    RINGS.fetch_add(1, Relaxed);
    share();
    // The others' shares shrank: what they hold beyond goes now, so the bound holds at every moment.
    let share = SHARE.load(Relaxed);
    thread::slots(&mut |other| {
        // SAFETY: claims are made by compare-and-swap, by any thread.
        while other.ring.holds_more_than(share) && unsafe { evict::<false>(&other.ring) } != 0 {}
    });
    true
}

/// The thread of this slot ends: others empty its ring before their own.
pub(crate) fn leave(slot: &Slot) {
    if slot.ring.state.compare_exchange(OWNED, ORPHAN, AcqRel, Relaxed).is_ok() {
        ORPHANS.fetch_add(1, Relaxed);
    }
}

/// In a fork's child, when the slots of threads that it doesn't have were left: counts anew what those may have been at.
/// The few blocks that one of them had just taken out are lost.
pub(crate) fn after_fork() {
    let (mut rings, mut orphans) = (0u32, 0u32);
    thread::slots(&mut |slot| {
        let ring = &slot.ring;
        ring.inherited.store(!ring.cells.load(Relaxed).is_null(), Relaxed);
        let state = ring.state.load(Relaxed);
        rings = rings.wrapping_add(u32::from(state != UNUSED));
        orphans = orphans.wrapping_add(u32::from(state == ORPHAN));
    });
    RINGS.store(rings, Relaxed);
    ORPHANS.store(orphans, Relaxed);
    share();
}

#[cold]
#[inline(never)]
fn evict_orphans() {
    let mut done = false;
    thread::slots(&mut |other| {
        let ring = &other.ring;
        if done || ring.state.load(Acquire) != ORPHAN {
            return;
        }
        done = true;
        // SAFETY: claims are made by compare-and-swap, by any thread.
        unsafe { evict::<false>(ring) };
        if ring.tail.load(Acquire) == ring.head.load(Acquire)
            && ring.state.compare_exchange(ORPHAN, UNUSED, AcqRel, Relaxed).is_ok()
        {
            ORPHANS.fetch_sub(1, Relaxed);
            RINGS.fetch_sub(1, Relaxed);
            share();
        }
    });
}

/// Takes the oldest few out of a ring, verifies them and gives them back. How many.
///
/// # Safety
/// Called where giving a block back to its inner allocator is allowed; `OWNER` only in a push by the ring's owner.
#[inline(never)]
unsafe fn evict<const OWNER: bool>(ring: &Ring) -> usize {
    let cells = ring.cells.load(Acquire);
    let mask = ring.length.load(Relaxed).wrapping_sub(1);
    let mut batch = [Entry { address: 0, inner: 0, freed_by: 0, thread: 0, size: 0, align: 1 }; BATCH];
    loop {
        let tail = ring.tail.load(Acquire);
        let waiting = ring.head.load(Acquire).wrapping_sub(tail);
        let n = waiting.min(BATCH);
        if n == 0 || waiting > mask.wrapping_add(1) {
            return 0;
        }
        if !OWNER {
            for (i, entry) in batch.iter_mut().enumerate().take(n) {
                // SAFETY: masked; a cell that its owner overwrites meanwhile is thrown away with the failed claim below.
                *entry = unsafe { (*cells.add(tail.wrapping_add(i) & mask)).read() };
            }
        }
        if ring.tail.compare_exchange(tail, tail.wrapping_add(n), AcqRel, Acquire).is_err() {
            continue;
        }
        let far = BUDGET.load(Relaxed) > 4 << 20;
        for i in 0..n {
            // Each block ends in a compare-and-swap, past which nothing is read: ask for all of this batch at once, or, past
            // the cache, for all of the next one.
            let ahead = if far { n.wrapping_add(i) } else { i };
            // SAFETY: masked; a prefetch of any address is harmless.
            let next = unsafe { (*cells.add(tail.wrapping_add(ahead) & mask)).read() };
            heap::fetch(&next);
            if far {
                heap::fetch_inside(&next);
            }
        }
        let mut charges = 0u64;
        for (i, entry) in batch.iter().enumerate().take(n) {
            let entry = if OWNER {
                // SAFETY: masked. A claimed cell is free for the owner to write, who is here.
                unsafe { (*cells.add(tail.wrapping_add(i) & mask)).read() }
            } else {
                *entry
            };
            // SAFETY: the claim made the entry ours alone.
            unsafe { heap::evict(entry) };
            charges = charges.wrapping_add(charge(entry.size, entry.align) as u64);
        }
        ring.taken.fetch_add(charges, Relaxed);
        return n;
    }
}

/// Gives every waiting block back: the inner allocator has no more, or goes away.
#[cold]
#[inline(never)]
pub(crate) fn empty() {
    thread::slots(&mut |slot| {
        // SAFETY: called from ordinary code, or from an allocation that failed: nothing of ours is held.
        while unsafe { evict::<false>(&slot.ring) } != 0 {}
    });
}

/// Gives a block back to its inner allocator at once.
///
/// # Safety
/// The block is freed, its word is gone, and nobody uses it.
#[inline(always)]
pub(crate) unsafe fn release(entry: Entry) {
    let Some(outer) = layout::guarded(entry.size, entry.align) else { return };
    let base = entry.address.wrapping_sub(layout::front(entry.align)) as *mut u8;
    // SAFETY: the caller's; the layout is the one that the block was asked for with.
    unsafe { inner::dealloc(entry.inner, base, outer) };
}

/// Visits what waits, oldest first in each ring. Entries that go meanwhile may still be told.
pub(crate) fn waiting(visit: &mut dyn FnMut(Entry)) {
    thread::slots(&mut |slot| {
        let ring = &slot.ring;
        let cells = ring.cells.load(Acquire);
        if cells.is_null() {
            return;
        }
        let mask = ring.length.load(Relaxed).wrapping_sub(1);
        let (mut at, head) = (ring.tail.load(Acquire), ring.head.load(Acquire));
        while at != head {
            // SAFETY: masked.
            let entry = unsafe { (*cells.add(at & mask)).read() };
            if ring.tail.load(Acquire).wrapping_sub(at) as isize <= 0 && entry.address != 0 {
                visit(entry);
            }
            at = at.wrapping_add(1);
        }
    });
}

/// The entry of the block at `address`, if it waits: who freed it. For reports.
pub(crate) fn find(address: usize) -> Option<Entry> {
    let mut found = None;
    waiting(&mut |entry| {
        if entry.address == address {
            found = Some(entry);
        }
    });
    found
}

/// Bytes that wait now.
pub(crate) fn bytes() -> usize {
    let mut sum = 0usize;
    thread::slots(&mut |slot| sum = sum.wrapping_add(slot.ring.bytes()));
    sum
}
