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
    keep_errno(|| {
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no memory in use.
        let p = unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if p == libc::MAP_FAILED {
            return None;
        }
        OURS.fetch_add(bytes, Relaxed);
        NonNull::new(p.cast())
    })
}

/// Gives a whole mapping back.
///
/// # Safety
/// `p` came from [`map`] with the same `bytes`, and nobody reads or writes it any more.
pub(crate) unsafe fn unmap(p: NonNull<u8>, bytes: usize) {
    keep_errno(|| {
        // SAFETY: the caller says that the mapping is ours and unused.
        if unsafe { libc::munmap(p.as_ptr().cast(), bytes) } == 0 {
            OURS.fetch_sub(bytes, Relaxed);
        }
    });
}

/// Gives the pages back and keeps the mapping: late readers see zeroes, never a hole. False where the system refused.
///
/// # Safety
/// `p` and `bytes` lie in a mapping from [`map`], and zeroes are a valid content for all who may still read it.
pub(crate) unsafe fn discard(p: *mut u8, bytes: usize) -> bool {
    const MADV_DONTNEED_LOCKED: i32 = 24; // Linux 5.18; under mlockall MADV_DONTNEED alone says EINVAL
    keep_errno(|| {
        // SAFETY: the caller lends whole pages of a private anonymous mapping of ours.
        unsafe {
            libc::madvise(p.cast(), bytes, libc::MADV_DONTNEED) == 0
                || libc::madvise(p.cast(), bytes, MADV_DONTNEED_LOCKED) == 0
        }
    })
}
