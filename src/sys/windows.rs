//! Windows: kernel32, and the C runtime for files. Compiled here, not run by our tests. Runs inside an allocation.

use core::ffi::{CStr, c_int, c_void};
use core::ptr::NonNull;
use core::sync::atomic::{
    AtomicPtr, AtomicUsize,
    Ordering::{AcqRel, Acquire},
};

#[link(name = "kernel32")]
unsafe extern "system" {
    fn VirtualAlloc(address: *mut c_void, bytes: usize, kind: u32, protection: u32) -> *mut c_void;
    fn VirtualFree(address: *mut c_void, bytes: usize, kind: u32) -> i32;
    fn GetLastError() -> u32;
    fn SetLastError(error: u32);
    fn FlsAlloc(at_end: Option<unsafe extern "system" fn(*mut c_void)>) -> u32;
    fn FlsSetValue(index: u32, value: *mut c_void) -> i32;
    fn GetCurrentThreadId() -> u32;
    fn GetTickCount64() -> u64;
    fn Sleep(ms: u32);
    fn GetEnvironmentStringsW() -> *mut u16;
    fn FreeEnvironmentStringsW(block: *mut u16) -> i32;
}

pub(crate) type Descriptor = c_int;
pub(crate) const STDERR: Descriptor = 2;

/// There are none.
pub(crate) fn without_signals<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// Runs `f` and puts the last error, Windows' `errno`, back to what it was.
pub(crate) fn keep_errno<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: no arguments; this thread's own word.
    let before = unsafe { GetLastError() };
    let result = f();
    // SAFETY: as above.
    unsafe { SetLastError(before) };
    result
}

/// Fresh zeroed pages.
pub(super) fn map_pages(bytes: usize) -> Option<NonNull<u8>> {
    const RESERVE_AND_COMMIT: u32 = 0x3000;
    const READ_AND_WRITE: u32 = 4;
    // SAFETY: new pages at an address of the system's choice.
    NonNull::new(
        unsafe { VirtualAlloc(core::ptr::null_mut(), bytes, RESERVE_AND_COMMIT, READ_AND_WRITE) }.cast(),
    )
}

/// # Safety
/// They came from [`map_pages`] as a whole, and nobody uses them.
pub(super) unsafe fn unmap_pages(p: NonNull<u8>, _bytes: usize) -> bool {
    const RELEASE: u32 = 0x8000;
    // SAFETY: the caller's; a release takes the whole reservation, told by 0 bytes.
    unsafe { VirtualFree(p.as_ptr().cast(), 0, RELEASE) != 0 }
}

/// Not without a hole for a moment, so not at all.
///
/// # Safety
/// None.
pub(super) unsafe fn discard_pages(_p: *mut u8, _bytes: usize) -> bool {
    false
}

/// Nobody forks.
///
/// # Safety
/// None.
pub(crate) unsafe fn wipe_in_child(_page: NonNull<u8>) -> bool {
    false
}

/// What runs when a thread with a value ends.
pub(crate) type AtThreadsEnd = unsafe extern "C" fn(*mut c_void);

static AT_END: AtomicUsize = AtomicUsize::new(0);

unsafe extern "system" fn at_end(value: *mut c_void) {
    let f = AT_END.load(Acquire);
    if f != 0 && !value.is_null() {
        // SAFETY: `ThreadKey::new` stored a function of this type; the value is one that `set` was given.
        unsafe { core::mem::transmute::<usize, AtThreadsEnd>(f)(value) }
    }
}

/// A key under which each thread may keep one pointer.
#[derive(Clone, Copy)]
pub(crate) struct ThreadKey(u32);

impl ThreadKey {
    /// A new key; nothing where there is none. One for the process.
    pub(crate) fn new(f: AtThreadsEnd) -> Option<Self> {
        AT_END.store(f as *const () as usize, core::sync::atomic::Ordering::Release);
        // SAFETY: a function of the right type that lives as long as the program.
        let key = unsafe { FlsAlloc(Some(at_end)) };
        (key != u32::MAX).then_some(Self(key))
    }

    /// Keeps a pointer for this thread; whether that worked.
    pub(crate) fn set(self, value: *const c_void) -> bool {
        // SAFETY: the key exists; the value is only handed on.
        unsafe { FlsSetValue(self.0, value.cast_mut()) != 0 }
    }

    /// As a number, to be kept in an atomic.
    pub(crate) fn number(self) -> u64 {
        u64::from(self.0)
    }

    pub(crate) fn of(number: u64) -> Self {
        Self(number as u32)
    }
}

/// Writes all of `bytes`, or gives up.
pub(crate) fn write_all(file: Descriptor, bytes: &[u8]) {
    let mut rest = bytes;
    while file >= 0 && !rest.is_empty() {
        let most = rest.len().min(1 << 20);
        // SAFETY: no more than the length of a live slice, which is only read.
        let written = unsafe { libc::write(file, rest.as_ptr().cast(), most as libc::c_uint) };
        match usize::try_from(written) {
            Ok(n) if n > 0 => rest = rest.get(n..).unwrap_or_default(),
            _ => break,
        }
    }
}

/// Opens a file to append to, made where it isn't there.
pub(crate) fn open(path: &CStr) -> Option<Descriptor> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_BINARY | libc::O_NOINHERIT;
    // SAFETY: a C string, which is only read.
    let file = unsafe { libc::open(path.as_ptr(), flags, libc::S_IREAD | libc::S_IWRITE) };
    (file >= 0).then_some(file)
}

/// Closes a file of ours, which nobody uses any more.
pub(crate) fn close(file: Descriptor) {
    // SAFETY: our own descriptor.
    unsafe { libc::close(file) };
}

/// Whether somebody looks at it.
pub(crate) fn is_terminal(file: Descriptor) -> bool {
    // SAFETY: asks about a descriptor, open or not.
    unsafe { libc::isatty(file) != 0 }
}

/// Writes out what C code has buffered. At the program's end only.
pub(crate) fn write_out_streams() {
    // SAFETY: null means every stream.
    unsafe { libc::fflush(core::ptr::null_mut()) };
}

/// Ends the process with this status, running nothing of the program's.
pub(crate) fn exit_now(status: c_int) -> ! {
    // SAFETY: takes any status and runs no handlers.
    unsafe { libc::_exit(status) }
}

/// This process's id.
pub(crate) fn process_id() -> u32 {
    std::process::id()
}

/// A number that no other living thread has.
pub(crate) fn thread_number() -> u32 {
    // SAFETY: no arguments.
    unsafe { GetCurrentThreadId() }
}

/// Not asked for: the answer is allocated.
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

/// Milliseconds of a clock that only goes forward.
pub(crate) fn now_ms() -> i64 {
    // SAFETY: no arguments.
    unsafe { GetTickCount64() as i64 }
}

/// Sleeps.
pub(crate) fn sleep_ms(ms: u16) {
    // SAFETY: any time.
    unsafe { Sleep(u32::from(ms)) }
}

/// The `NAME=value` strings of the environment, as UTF-8: copied once, at the first question.
///
/// # Safety
/// None here.
pub(crate) unsafe fn environment<'a>() -> impl Iterator<Item = &'a [u8]> {
    static COPY: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());
    let mut next: *const u8 = COPY.load(Acquire);
    if next.is_null()
        && let Some((copy, bytes)) = copy_environment()
    {
        next = match COPY.compare_exchange(core::ptr::null_mut(), copy.as_ptr(), AcqRel, Acquire) {
            Ok(_) => copy.as_ptr(),
            Err(theirs) => {
                // SAFETY: ours was never published.
                unsafe { super::unmap(copy, bytes) };
                theirs
            }
        };
    }
    core::iter::from_fn(move || {
        if next.is_null() {
            return None;
        }
        // SAFETY: `copy_environment` wrote C strings, the last of them empty, into pages that stay mapped; an empty one isn't
        // passed.
        let entry = unsafe { CStr::from_ptr(next.cast()) }.to_bytes();
        if entry.is_empty() {
            return None;
        }
        // SAFETY: as above: behind its zero the next one begins.
        next = unsafe { next.add(entry.len().wrapping_add(1)) };
        Some(entry)
    })
}

/// Zero-ended strings, the last of them empty, and the bytes mapped for them.
fn copy_environment() -> Option<(NonNull<u8>, usize)> {
    // SAFETY: the block is ours until it is freed below. It holds zero-ended strings, the last of them empty.
    unsafe {
        let block = GetEnvironmentStringsW();
        if block.is_null() {
            return None;
        }
        let mut length = 0usize;
        while *block.add(length) != 0 || *block.add(length.wrapping_add(1)) != 0 {
            length = length.wrapping_add(1);
        }
        let wide = core::slice::from_raw_parts(block, length);
        // No unit of UTF-16 takes more than three bytes; two zeroes behind them, as the pages have.
        let bytes = length.wrapping_mul(3).wrapping_add(2);
        let copy = super::map(bytes);
        if let Some(copy) = copy {
            let mut at = 0usize;
            for c in char::decode_utf16(wide.iter().copied()) {
                let mut utf8 = [0; 4];
                for byte in c.unwrap_or(char::REPLACEMENT_CHARACTER).encode_utf8(&mut utf8).bytes() {
                    copy.as_ptr().add(at).write(byte);
                    at = at.wrapping_add(1);
                }
            }
        }
        FreeEnvironmentStringsW(block);
        copy.map(|copy| (copy, bytes))
    }
}

/// Has `f` called at the program's end; whether that was possible.
pub(crate) fn at_exit(f: extern "C" fn()) -> bool {
    // SAFETY: the function lives as long as the program.
    unsafe { libc::atexit(f) == 0 }
}

/// Nothing is left of a child process that has ended.
pub(crate) fn child_state(_id: u32) -> Option<super::ChildState> {
    None
}
