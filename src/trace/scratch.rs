//! Memory of our own for what is too large for a small stack: lent to one capture at a time.
//!
//! Runs inside an allocation.

use core::mem::MaybeUninit;
use core::sync::atomic::{
    AtomicPtr, AtomicU32,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use crate::block::fork;
use crate::sys;

/// So many of a kind may be lent at once.
const MOST: usize = 64;

struct Place<T> {
    /// Number + 1 of the process in which a capture uses it: a fork's child finds what other threads used free.
    taken: AtomicU32,
    content: MaybeUninit<T>,
}

/// A few pieces of one kind, mapped when first needed and never given back.
pub(crate) struct Pool<T> {
    places: [AtomicPtr<Place<T>>; MOST],
}

impl<T> Pool<T> {
    pub(crate) const fn new() -> Self {
        Self { places: [const { AtomicPtr::new(core::ptr::null_mut()) }; MOST] }
    }

    /// One that nobody uses; nothing where 64 captures run at once or memory ran out. All zeroes at first.
    pub(crate) fn lend(&'static self) -> Option<Lent<T>> {
        let mine = (fork::number() as u32).wrapping_add(1);
        for place in &self.places {
            let mut p = place.load(Acquire);
            if p.is_null() {
                let fresh = sys::map(size_of::<Place<T>>())?;
                match place.compare_exchange(core::ptr::null_mut(), fresh.as_ptr().cast(), AcqRel, Acquire) {
                    Ok(_) => p = fresh.as_ptr().cast(),
                    Err(theirs) => {
                        // SAFETY: ours was never published.
                        unsafe { sys::unmap(fresh, size_of::<Place<T>>()) };
                        p = theirs;
                    }
                }
            }
            // SAFETY: a published place stays mapped, and zeroes are a valid mark.
            let taken = unsafe { &(*p).taken };
            let seen = taken.load(Relaxed);
            if seen != mine && taken.compare_exchange(seen, mine, AcqRel, Relaxed).is_ok() {
                return Some(Lent(p));
            }
        }
        None
    }
}

/// Given back when dropped.
pub(crate) struct Lent<T: 'static>(*mut Place<T>);

impl<T> Lent<T> {
    /// What is lent: zeroes, or what the last user left.
    pub(crate) fn content(&mut self) -> &mut MaybeUninit<T> {
        // SAFETY: the mark makes this the place's only user until it is dropped, and the place stays mapped.
        unsafe { &mut (*self.0).content }
    }
}

impl<T> Drop for Lent<T> {
    fn drop(&mut self) {
        // SAFETY: as in `content`.
        unsafe { (*self.0).taken.store(0, Release) };
    }
}
