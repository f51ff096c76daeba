//! Linux, with any C library. Runs inside an allocation.

use core::ffi::{CStr, c_char, c_int};
use core::ptr::NonNull;

use super::keep_errno;
use super::unix::ThreadKey;
use crate::report::buffer::Buffer;

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

/// This thread's name, ended by zero; empty where it isn't known.
pub(crate) fn thread_name() -> [u8; 16] {
    let mut name = [0; 16];
    // SAFETY: the kernel writes at most 16 bytes, the end included. Doesn't fail, so `errno` stays as it is.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name
}

/// What the thread of this process with this number is called now, ended by zero; nothing where it runs no more.
pub(crate) fn name_of_thread(number: u32) -> Option<[u8; 16]> {
    let mut path = [0u8; 48];
    let mut text = Buffer::new(&mut path);
    core::fmt::Write::write_fmt(&mut text, format_args!("/proc/self/task/{number}/comm\0")).ok()?;
    let path = CStr::from_bytes_with_nul(text.bytes()).ok()?;
    let mut name = [0u8; 16];
    let read = keep_errno(|| {
        // SAFETY: a C string; a descriptor of our own, closed again; as many bytes as the buffer has. (The C library's own
        // functions are cancellation points; `syscall` isn't.)
        unsafe {
            let flags = libc::O_RDONLY | libc::O_CLOEXEC;
            let fd = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags);
            if fd < 0 {
                return None;
            }
            let read = libc::syscall(libc::SYS_read, fd, name.as_mut_ptr(), name.len());
            libc::syscall(libc::SYS_close, fd);
            usize::try_from(read).ok()
        }
    })?;
    // The line's end.
    let end = name.iter_mut().take(read).rev().find(|byte| **byte == b'\n')?;
    *end = 0;
    Some(name)
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

/// Whether this page reads as zeroes in a child from now on, however it is forked. Linux 4.14.
///
/// # Safety
/// A whole page of ours, for which zeroes are a valid content.
pub(crate) unsafe fn wipe_in_child(page: NonNull<u8>) -> bool {
    // SAFETY: the caller's.
    keep_errno(|| unsafe { libc::madvise(page.as_ptr().cast(), 4096, libc::MADV_WIPEONFORK) }) == 0
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
