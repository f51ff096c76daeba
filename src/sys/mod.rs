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
