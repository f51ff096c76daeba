//! The only files that differ by platform.
//!
//! Runs inside an allocation: system calls only, nothing from the watched heap, `errno` put back.

#[cfg(native)]
pub(crate) mod line;
#[cfg(not(native))]
#[path = "line_portable.rs"]
pub(crate) mod line;
#[cfg(native)]
mod linux;
mod memory;

#[cfg(native)]
pub(crate) use linux::*;
pub(crate) use memory::{discard, map, our_bytes, unmap};

/// Whether `address` lies in the program or in a library of it, as far as that is known.
#[cfg(native)]
pub(crate) fn in_module(address: usize) -> bool {
    find_module(address).is_some()
}
#[cfg(not(native))]
pub(crate) fn in_module(_address: usize) -> bool {
    false
}

/// Runs `f` with every signal that can be blocked held back.
pub(crate) fn without_signals<R>(f: impl FnOnce() -> R) -> R {
    let mut before = core::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: both sets are valid buffers of the right type; `sigfillset` writes all of the first.
    let blocked = unsafe {
        let mut all = core::mem::MaybeUninit::<libc::sigset_t>::zeroed();
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) == 0
    };
    let result = f();
    if blocked {
        // SAFETY: written by the call above.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), core::ptr::null_mut()) };
    }
    result
}

/// Runs `f` and puts `errno` back to what it was.
pub(crate) fn keep_errno<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: the C library gives each thread its own `errno` at an address that lives as long as the thread.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as above; nobody else writes this thread's `errno`.
    let before = unsafe { place.read() };
    let result = f();
    // SAFETY: as above.
    unsafe { place.write(before) };
    result
}
