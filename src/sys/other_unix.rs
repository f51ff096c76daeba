//! Every Unix but Linux: Apple's, the BSDs, illumos. Runs inside an allocation.

use core::ffi::{c_char, c_int};
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::sync::atomic::{
    AtomicPtr,
    Ordering::{AcqRel, Acquire},
};

use super::keep_errno;
use super::line::line;
use super::unix::ThreadKey;

pub(super) const MAP_FLAGS: c_int = libc::MAP_PRIVATE | libc::MAP_ANON;

/// Where this thread's `errno` lies.
#[inline(always)]
pub(super) fn errno_place() -> *mut c_int {
    #[cfg(any(target_os = "solaris", target_os = "illumos"))]
    use libc::___errno as place;
    #[cfg(any(target_os = "openbsd", target_os = "netbsd", target_os = "android"))]
    use libc::__errno as place;
    #[cfg(target_os = "dragonfly")]
    use libc::__errno_location as place;
    #[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
    use libc::__error as place;
    // SAFETY: no arguments, always succeeds.
    unsafe { place() }
}

#[cfg(target_vendor = "apple")]
pub(super) fn environ_place() -> *const *const *const c_char {
    unsafe extern "C" {
        // A library has no `environ` there.
        fn _NSGetEnviron() -> *const *const *const c_char;
    }
    // SAFETY: no arguments, always succeeds.
    unsafe { _NSGetEnviron() }
}
#[cfg(not(target_vendor = "apple"))]
pub(super) fn environ_place() -> *const *const *const c_char {
    unsafe extern "C" {
        static mut environ: *const *const c_char;
    }
    &raw const environ
}

/// Whether the program runs for somebody else than it belongs to.
pub(super) fn is_privileged() -> bool {
    // SAFETY: the four calls only read the process's ids.
    unsafe { libc::getuid() != libc::geteuid() || libc::getgid() != libc::getegid() }
}

impl ThreadKey {
    /// No key's value is known to take memory from the program's heap.
    pub(super) fn is_cheap(self) -> bool {
        true
    }
}

/// A number that no other living thread of the process has: where its line lies.
pub(crate) fn thread_number() -> u32 {
    (core::ptr::from_ref(line()) as usize >> 3) as u32
}

/// This thread's name isn't asked for: who answers may take a lock.
pub(crate) fn thread_name() -> [u8; 16] {
    [0; 16]
}

/// Nor is another's.
pub(crate) fn name_of_thread(_number: u32) -> Option<[u8; 16]> {
    None
}

/// Not known.
pub(crate) fn is_main_thread() -> bool {
    false
}

/// Gives pages back and keeps the mapping, by one of its kind over it; whether that worked.
///
/// # Safety
/// Whole pages of a mapping of ours, for which zeroes are a valid content.
pub(super) unsafe fn discard_pages(p: *mut u8, bytes: usize) -> bool {
    // SAFETY: the caller lends whole pages of ours; the kernel changes one mapping for the other, with no hole between.
    unsafe {
        let flags = MAP_FLAGS | libc::MAP_FIXED;
        libc::mmap(p.cast(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) != libc::MAP_FAILED
    }
}

static WIPED: AtomicPtr<[u8; 4096]> = AtomicPtr::new(core::ptr::null_mut());

extern "C" fn in_child() {
    let page = WIPED.load(Acquire);
    if !page.is_null() {
        // SAFETY: a page of ours that stays mapped, for which zeroes are a valid content; the child has one thread.
        unsafe { page.write_bytes(0, 1) };
    }
}

/// Whether this page reads as zeroes in a child from now on, made by `fork` and nothing else. One page for the process.
///
/// # Safety
/// A whole page of ours that stays mapped where this is true, for which zeroes are a valid content.
pub(crate) unsafe fn wipe_in_child(page: NonNull<u8>) -> bool {
    // SAFETY: the handler lives as long as the program.
    WIPED.compare_exchange(core::ptr::null_mut(), page.as_ptr().cast(), AcqRel, Acquire).is_ok()
        && keep_errno(|| unsafe { libc::pthread_atfork(None, None, Some(in_child)) }) == 0
}

/// Takes away a pending SIGPIPE, which is blocked.
///
/// # Safety
/// `set` holds SIGPIPE alone.
pub(super) unsafe fn take_sigpipe(set: &libc::sigset_t) {
    let mut pending = MaybeUninit::<libc::sigset_t>::zeroed();
    let mut taken: c_int = 0;
    // SAFETY: live sets, the second filled by the call. What is pending is taken at once, since it is ours: raised by this
    // thread's own write.
    unsafe {
        libc::sigpending(pending.as_mut_ptr());
        if libc::sigismember(pending.as_ptr(), libc::SIGPIPE) == 1 {
            libc::sigwait(set, &mut taken);
        }
    }
}
