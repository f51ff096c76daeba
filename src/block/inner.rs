//! The inner allocators, by number: a quarantined block goes back to the one that it came from.
//!
//! Runs inside an allocation.

use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{
    AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

const MOST: usize = 255;

struct Place {
    /// The allocator; 0: free, 1: being written.
    data: AtomicUsize,
    dealloc: AtomicUsize,
}

static PLACES: [Place; MOST] =
    [const { Place { data: AtomicUsize::new(0), dealloc: AtomicUsize::new(0) } }; MOST];

type Dealloc = unsafe fn(*const (), *mut u8, Layout);

unsafe fn dealloc_of<A: GlobalAlloc>(inner: *const (), p: *mut u8, layout: Layout) {
    // SAFETY: `register` paired this function with an `A`, which lives until it is unregistered; the block is its own.
    unsafe { (*inner.cast::<A>()).dealloc(p, layout) }
}

/// A number for `inner`, 0 where all are taken: its blocks are then freed at once.
///
/// # Safety
/// `inner` stays at its place until [`unregister`].
pub(crate) unsafe fn register<A: GlobalAlloc>(inner: &A) -> u8 {
    let data = (inner as *const A) as usize;
    // A zero-sized allocator may lie at any address, 1 included: its place is told by the number alone.
    let data = if data <= 1 { usize::MAX } else { data };
    for (i, place) in PLACES.iter().enumerate() {
        if place.data.load(Relaxed) == 0 && place.data.compare_exchange(0, 1, AcqRel, Relaxed).is_ok() {
            place.dealloc.store(dealloc_of::<A> as *const () as usize, Relaxed);
            place.data.store(data, Release);
            return (i as u8).wrapping_add(1);
        }
    }
    0
}

/// Gives the number back; no block of it is in quarantine any more.
pub(crate) fn unregister(number: u8) {
    if let Some(place) = PLACES.get(usize::from(number).wrapping_sub(1)) {
        place.data.store(0, Release);
    }
}

/// Gives a block back to inner allocator `number`.
///
/// # Safety
/// The block came from that allocator with this layout and nobody uses it any more.
#[inline(always)]
pub(crate) unsafe fn dealloc(number: u8, p: *mut u8, layout: Layout) {
    let Some(place) = PLACES.get(usize::from(number).wrapping_sub(1)) else { return };
    let data = place.data.load(Acquire);
    if data <= 1 {
        return;
    }
    // SAFETY: written by `register` as this very type before `data` was published.
    let dealloc: Dealloc = unsafe { core::mem::transmute(place.dealloc.load(Relaxed)) };
    // SAFETY: the caller's; a zero-sized allocator's address is never read through.
    unsafe { dealloc(data as *const (), p, layout) }
}
