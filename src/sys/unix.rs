//! What is alike on every Unix. What isn't stands in `linux` or `other_unix`.
//!
//! Runs inside an allocation.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use super::{ChildState, MAP_FLAGS, environ_place, errno_place};

/// A file that is open.
pub(crate) type Descriptor = c_int;
/// Standard error.
pub(crate) const STDERR: Descriptor = libc::STDERR_FILENO;

/// Runs `f` with every signal that can be blocked held back.
pub(crate) fn without_signals<R>(f: impl FnOnce() -> R) -> R {
    let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: both sets are valid buffers of the right type; `sigfillset` writes all of the first.
    let blocked = unsafe {
        let mut all = MaybeUninit::<libc::sigset_t>::zeroed();
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
    let place = errno_place();
    // SAFETY: the C library gives each thread its own `errno` at an address that lives as long as the thread; nobody else
    // writes it.
    let before = unsafe { place.read() };
    let result = f();
    // SAFETY: as above.
    unsafe { place.write(before) };
    result
}

/// Fresh zeroed pages.
pub(super) fn map_pages(bytes: usize) -> Option<NonNull<u8>> {
    // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no memory in use.
    let p = unsafe {
        libc::mmap(core::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, MAP_FLAGS, -1, 0)
    };
    if p == libc::MAP_FAILED { None } else { NonNull::new(p.cast()) }
}

/// Gives pages back; whether the system took them.
///
/// # Safety
/// They came from [`map_pages`] as a whole, and nobody uses them.
pub(super) unsafe fn unmap_pages(p: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: the caller's.
    unsafe { libc::munmap(p.as_ptr().cast(), bytes) == 0 }
}

/// What runs when a thread with a value ends.
pub(crate) type AtThreadsEnd = unsafe extern "C" fn(*mut c_void);

/// A key under which each thread may keep one pointer.
#[derive(Clone, Copy)]
pub(crate) struct ThreadKey(pub(super) libc::pthread_key_t);

impl ThreadKey {
    /// A new key. Nothing where there is none, or where its values would take memory from a heap.
    pub(crate) fn new(at_end: AtThreadsEnd) -> Option<Self> {
        let mut key = 0;
        // SAFETY: a valid place for the key and a destructor with the right type. No allocation.
        let made = unsafe { libc::pthread_key_create(&mut key, Some(at_end)) } == 0;
        Some(Self(key)).filter(|key| made && key.is_cheap())
    }

    /// Keeps a pointer for this thread; whether that worked.
    pub(crate) fn set(self, value: *const c_void) -> bool {
        // SAFETY: the key exists; the value is only handed on.
        unsafe { libc::pthread_setspecific(self.0, value) == 0 }
    }

    /// As a number, to be kept in an atomic.
    pub(crate) fn number(self) -> u64 {
        #[allow(clippy::unnecessary_cast)] // a `u64` already on some systems
        let number = self.0 as u64;
        number
    }

    pub(crate) fn of(number: u64) -> Self {
        Self(number as libc::pthread_key_t)
    }
}

/// Opens a file to append to, made where it isn't there. `path` ends with a zero.
pub(crate) fn open(path: &CStr) -> Option<Descriptor> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
    // SAFETY: a C string, which `open` only reads.
    let fd = unsafe { libc::open(path.as_ptr(), flags, 0o666) };
    (fd >= 0).then_some(fd)
}

/// Closes a file of ours, which nobody uses any more.
pub(crate) fn close(file: Descriptor) {
    // SAFETY: our own descriptor.
    unsafe { libc::close(file) };
}

/// Whether somebody looks at it.
pub(crate) fn is_terminal(file: Descriptor) -> bool {
    // SAFETY: asks about a descriptor, open or not.
    unsafe { libc::isatty(file) == 1 }
}

/// Writes out what C code has buffered. May take locks of the C library: at the program's end only.
pub(crate) fn write_out_streams() {
    // SAFETY: null means every stream.
    unsafe { libc::fflush(core::ptr::null_mut()) };
}

/// Ends the process with this status, running nothing of the program's.
pub(crate) fn exit_now(status: c_int) -> ! {
    // SAFETY: takes any status, runs no handlers and touches none of the program's memory.
    unsafe { libc::_exit(status) }
}

/// This process's id.
pub(crate) fn process_id() -> u32 {
    std::process::id()
}

/// Looks after a child of this process, which stays as it is; nothing where there is none that could be waited for.
pub(crate) fn child_state(id: u32) -> Option<ChildState> {
    let mut found = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    keep_errno(|| {
        // SAFETY: a valid place for the answer. With `WNOWAIT` the child can still be waited for.
        let asked = unsafe { libc::waitid(libc::P_PID, id as libc::id_t, found.as_mut_ptr(), options) };
        // SAFETY: zeroes are a valid value, and so is what the call wrote.
        let signal = unsafe { found.assume_init_ref() }.si_signo;
        (asked == 0).then_some(if signal == 0 { ChildState::Running } else { ChildState::Ended })
    })
}

/// Milliseconds of a clock that only goes forward.
pub(crate) fn now_ms() -> i64 {
    let mut t = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: a valid place for the time; zeroes are a time.
    let t = unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC, t.as_mut_ptr());
        t.assume_init()
    };
    #[allow(clippy::unnecessary_cast)] // 32 bits each on some systems
    (t.tv_sec as i64).saturating_mul(1000).saturating_add(t.tv_nsec as i64 / 1_000_000)
}

/// Sleeps, or less when a signal comes; less than a second.
pub(crate) fn sleep_ms(ms: u16) {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: zeroes are a valid time, and so is what is written; the rest isn't asked for.
    unsafe {
        (*time.as_mut_ptr()).tv_nsec = libc::c_long::from(ms.min(999)).saturating_mul(1_000_000) as _;
        libc::nanosleep(time.as_ptr(), core::ptr::null_mut());
    }
}

/// The `NAME=value` strings of the environment; none where it belongs to somebody else (setuid). Without `std::env`,
/// which allocates.
///
/// # Safety
/// Until the last returned slice is gone nobody changes the environment.
pub(crate) unsafe fn environment<'a>() -> impl Iterator<Item = &'a [u8]> {
    let mut next: *const *const c_char = core::ptr::null();
    if !super::is_privileged() {
        // SAFETY: one read of the C library's variable, which the caller keeps from being changed.
        next = unsafe { *environ_place() };
    }
    core::iter::from_fn(move || {
        if next.is_null() {
            return None;
        }
        // SAFETY: `next` points into the array of strings that ends with a null pointer, at most at that null: it is
        // moved on only past an entry that isn't null. Each entry is a NUL-terminated string (environ(7)).
        unsafe {
            let entry = *next;
            if entry.is_null() {
                return None;
            }
            next = next.add(1);
            Some(CStr::from_ptr(entry).to_bytes())
        }
    })
}

/// Has `f` called at the program's end; whether that was possible.
pub(crate) fn at_exit(f: extern "C" fn()) -> bool {
    // SAFETY: the function lives as long as the program; a cdylib that holds us is pinned.
    unsafe { libc::atexit(f) == 0 }
}
