//! Which process made a block, modulo 4: a fork's child must not report its parent's.
//!
//! Told by a page that the kernel wipes in a child, since raw `clone` and `_Fork` run no handler. Runs inside an allocation.

use core::sync::atomic::{
    AtomicPtr, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

use crate::sys;
use crate::table::Record;
use crate::thread;

/// What a process knows itself by; reads as zeroes in a child until its first hook.
#[repr(C)]
struct Page {
    /// A record's live state and fork number, as this process puts them.
    mark: AtomicU64,
    /// Number + 1.
    number: AtomicU64,
}

/// Before the page is mapped, and for good where it can't be: children count as their parent.
static UNTOLD: Page = Page { mark: AtomicU64::new(Record::mark(0)), number: AtomicU64::new(1) };
static PAGE: AtomicPtr<Page> = AtomicPtr::new((&raw const UNTOLD).cast_mut());
/// The last number handed out; inherited.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Maps the page, before anything of ours is switched on for the first time.
pub(crate) fn begin() {
    if !is_untold() {
        return;
    }
    let Some(page) = sys::map(4096) else { return };
    let p: *mut Page = page.as_ptr().cast();
    // SAFETY: mapped above, zeroed (a valid content), never unmapped.
    let fresh = unsafe { &*p };
    let number = NUMBER.load(Relaxed);
    fresh.mark.store(Record::mark(number), Relaxed);
    fresh.number.store(number.wrapping_add(1), Relaxed);
    // SAFETY: a whole page of ours, which stays mapped where this is true and it is published.
    let wiped = unsafe { sys::wipe_in_child(page) };
    if !wiped || PAGE.compare_exchange((&raw const UNTOLD).cast_mut(), p, AcqRel, Acquire).is_err() {
        // SAFETY: mapped above, and nobody else saw it.
        unsafe { sys::unmap(page, 4096) };
    }
}

fn is_untold() -> bool {
    core::ptr::eq(PAGE.load(Acquire), &raw const UNTOLD)
}

#[inline(always)]
fn page() -> &'static Page {
    // SAFETY: a static or a page that is mapped for ever; atomics, valid as zeroes.
    unsafe { &*PAGE.load(Acquire) }
}

/// What the record of a live block of this process has for its state and fork number; 0, which is no live block's, in a
/// child that hasn't asked for its [`number`] yet.
#[inline(always)]
pub(crate) fn mark() -> u64 {
    page().mark.load(Relaxed)
}

/// This process's number.
#[inline(always)]
pub(crate) fn number() -> u64 {
    let page = page();
    match page.number.load(Relaxed) {
        0 => child(page),
        n => n.wrapping_sub(1),
    }
}

#[cold]
#[inline(never)]
fn child(page: &Page) -> u64 {
    let mine = NUMBER.load(Relaxed).wrapping_add(1);
    // Threads of the child race to the same number; only the winner's step counts.
    match page.number.compare_exchange(0, mine.wrapping_add(1), AcqRel, Acquire) {
        Ok(_) => {
            NUMBER.store(mine, Relaxed);
            page.mark.store(Record::mark(mine), Relaxed);
            thread::after_fork(mine);
            mine
        }
        Err(n) => n.wrapping_sub(1),
    }
}
