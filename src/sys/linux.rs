//! Linux, with any C library. Runs inside an allocation.

use core::ffi::{c_char, c_int};

use super::keep_errno;
use super::unix::ThreadKey;

pub(super) const MAP_FLAGS: c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

/// Where this thread's `errno` lies.
#[inline(always)]
pub(super) fn errno_place() -> *mut c_int {
    // SAFETY: no arguments, always succeeds.
    unsafe { libc::__errno_location() }
}

pub(super) fn environ_place() -> *const *const *const c_char {
    unsafe extern "C" {
        static mut environ: *const *const c_char;
    }
    &raw const environ
}

/// Whether the program runs for somebody else than it belongs to.
pub(super) fn is_privileged() -> bool {
    // SAFETY: only reads the vector that the kernel made.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

impl ThreadKey {
    /// From the 33rd key on glibc's `pthread_setspecific` takes memory from its heap.
    pub(super) fn is_cheap(self) -> bool {
        self.0 < 32
    }
}

/// The thread's id for the kernel.
pub(crate) fn thread_id() -> i32 {
    // SAFETY: `gettid` has no arguments and always succeeds.
    unsafe { libc::syscall(libc::SYS_gettid) as i32 }
}

/// A number that no other living thread of the process has.
pub(crate) fn thread_number() -> u32 {
    thread_id() as u32
}

/// This thread's name, ended by zero; whether it is known.
pub(crate) fn thread_name(name: &mut [u8; 16]) -> bool {
    // SAFETY: the kernel writes at most 16 bytes, ended by zero.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) == 0 }
}

/// Whether this is the process's first thread.
pub(crate) fn is_main_thread() -> bool {
    thread_id() as u32 == std::process::id()
}

/// Gives pages back and keeps the mapping; whether that worked.
///
/// # Safety
/// Whole pages of a mapping of ours, for which zeroes are a valid content.
pub(super) unsafe fn discard_pages(p: *mut u8, bytes: usize) -> bool {
    const MADV_DONTNEED_LOCKED: i32 = 24; // Linux 5.18; under mlockall MADV_DONTNEED alone says EINVAL
    // SAFETY: the caller lends whole pages of a private anonymous mapping of ours.
    unsafe {
        libc::madvise(p.cast(), bytes, libc::MADV_DONTNEED) == 0
            || libc::madvise(p.cast(), bytes, MADV_DONTNEED_LOCKED) == 0
    }
}

/// From now on this page reads as zeroes in a fork's child. Where the kernel refuses it doesn't.
///
/// # Safety
/// A whole page of ours, for which zeroes are a valid content.
pub(crate) unsafe fn wipe_in_child(page: *mut u8) {
    // SAFETY: the caller's.
    keep_errno(|| unsafe { libc::madvise(page.cast(), 4096, libc::MADV_WIPEONFORK) });
}

/// Takes away a pending SIGPIPE, which is blocked.
///
/// # Safety
/// `set` holds SIGPIPE alone.
pub(super) unsafe fn take_sigpipe(set: &libc::sigset_t) {
    let mut now = core::mem::MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: set and time are live and initialised (zeroes: no wait); a null `info` is allowed.
    unsafe { libc::sigtimedwait(set, core::ptr::null_mut(), now.as_mut_ptr()) };
}
