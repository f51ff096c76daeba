//! Which process made a block, modulo 4: a fork's child must not report its parent's.
//!
//! Told by a page that the kernel wipes in a child, since raw `clone` and `_Fork` run no handler. Runs inside an allocation.

use core::sync::atomic::{
    AtomicPtr, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

use crate::sys;

/// Number + 1 of this process, on a page that reads as zero in a child.
static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(core::ptr::null_mut());
/// The last number handed out; inherited.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Maps the page. Once, at start.
pub(crate) fn begin() {
    let Some(page) = sys::map(4096) else { return };
    let p: *mut AtomicU64 = page.as_ptr().cast();
    // SAFETY: a whole page of ours. Where the system refuses, children count as their parent.
    unsafe { sys::wipe_in_child(page.as_ptr()) };
    // SAFETY: mapped above, zeroed, never unmapped.
    unsafe { (*p).store(NUMBER.load(Relaxed).wrapping_add(1), Relaxed) };
    PAGE.store(p, core::sync::atomic::Ordering::Release);
}

/// This process's number.
#[inline(always)]
pub(crate) fn number() -> u64 {
    let p = PAGE.load(Acquire);
    if p.is_null() {
        return 0;
    }
    // SAFETY: mapped for ever.
    match unsafe { (*p).load(Relaxed) } {
        0 => child(p),
        n => n.wrapping_sub(1),
    }
}

#[cold]
#[inline(never)]
fn child(p: *mut AtomicU64) -> u64 {
    let mine = NUMBER.load(Relaxed).wrapping_add(1);
    // SAFETY: as above. Threads of the child race to the same number; only the winner's step counts.
    match unsafe { (*p).compare_exchange(0, mine.wrapping_add(1), AcqRel, Acquire) } {
        Ok(_) => {
            NUMBER.store(mine, Relaxed);
            mine
        }
        Err(n) => n.wrapping_sub(1),
    }
}
