//! Memory of our own, straight from the system: never from the heap that we watch.
//!
//! Runs inside an allocation.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::keep_errno;

static OURS: AtomicUsize = AtomicUsize::new(0);

/// Bytes that Birthmark has mapped for itself and not given back, touched or not.
pub(crate) fn our_bytes() -> usize {
    OURS.load(Relaxed)
}

/// Fresh zeroed pages, or nothing where the system has none left.
pub(crate) fn map(bytes: usize) -> Option<NonNull<u8>> {
    let pages = keep_errno(|| super::map_pages(bytes));
    if pages.is_some() {
        OURS.fetch_add(bytes, Relaxed);
    }
    pages
}

/// Gives a whole mapping back.
///
/// # Safety
/// `p` came from [`map`] with the same `bytes`, and nobody reads or writes it any more.
pub(crate) unsafe fn unmap(p: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller says that the mapping is ours and unused.
    if keep_errno(|| unsafe { super::unmap_pages(p, bytes) }) {
        OURS.fetch_sub(bytes, Relaxed);
    }
}

/// Gives the pages back and keeps the mapping: late readers see zeroes, never a hole. False where the system refused, or
/// has no way to do that.
///
/// # Safety
/// `p` and `bytes` lie in a mapping from [`map`], and zeroes are a valid content for all who may still read it.
pub(crate) unsafe fn discard(p: *mut u8, bytes: usize) -> bool {
    // SAFETY: the caller lends whole pages of a mapping of ours.
    keep_errno(|| unsafe { super::discard_pages(p, bytes) })
}
