//! Neither Unix nor Windows (WebAssembly): what `std` gives, and where it gives nothing, nothing. No environment, so that
//! everything is switched on by calls; one slot for all threads; no files. Runs inside an allocation.

use core::alloc::{GlobalAlloc, Layout};
use core::ffi::{CStr, c_int, c_void};
use core::ptr::NonNull;
use std::alloc::System;
use std::io::Write;

pub(crate) type Descriptor = c_int;
pub(crate) const STDERR: Descriptor = 2;

/// There are none.
pub(crate) fn without_signals<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// There is none.
pub(crate) fn keep_errno<R>(f: impl FnOnce() -> R) -> R {
    f()
}

fn pages(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes, 4096).ok().filter(|layout| layout.size() > 0)
}

/// Zeroed memory of the system's allocator, which isn't watched.
pub(super) fn map_pages(bytes: usize) -> Option<NonNull<u8>> {
    // SAFETY: the layout has a size.
    NonNull::new(unsafe { System.alloc_zeroed(pages(bytes)?) })
}

/// # Safety
/// They came from [`map_pages`] as a whole, and nobody uses them.
pub(super) unsafe fn unmap_pages(p: NonNull<u8>, bytes: usize) -> bool {
    let Some(layout) = pages(bytes) else { return false };
    // SAFETY: the caller's.
    unsafe { System.dealloc(p.as_ptr(), layout) };
    true
}

/// Can't be had.
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

pub(crate) type AtThreadsEnd = unsafe extern "C" fn(*mut c_void);

/// Threads share a slot.
#[derive(Clone, Copy)]
pub(crate) struct ThreadKey;

impl ThreadKey {
    pub(crate) fn new(_at_end: AtThreadsEnd) -> Option<Self> {
        None
    }
    pub(crate) fn set(self, _value: *const c_void) -> bool {
        false
    }
    pub(crate) fn number(self) -> u64 {
        0
    }
    pub(crate) fn of(_number: u64) -> Self {
        Self
    }
}

pub(crate) fn write_all(file: Descriptor, bytes: &[u8]) {
    if file == STDERR {
        let _ = std::io::stderr().write_all(bytes);
    }
}

pub(crate) fn open(_path: &CStr) -> Option<Descriptor> {
    None
}

pub(crate) fn close(_file: Descriptor) {}

pub(crate) fn is_terminal(_file: Descriptor) -> bool {
    false
}

/// C code has none.
pub(crate) fn write_out_streams() {}

pub(crate) fn exit_now(_status: c_int) -> ! {
    std::process::abort()
}

/// There is one.
pub(crate) fn process_id() -> u32 {
    1
}

pub(crate) fn thread_number() -> u32 {
    (core::ptr::from_ref(super::line::line()) as usize >> 3) as u32
}

/// Not known.
pub(crate) fn thread_name() -> [u8; 16] {
    [0; 16]
}

/// Nor is another's.
pub(crate) fn name_of_thread(_number: u32) -> Option<[u8; 16]> {
    None
}

pub(crate) fn is_main_thread() -> bool {
    false
}

/// No clock everywhere: nobody waits.
pub(crate) fn now_ms() -> i64 {
    use core::sync::atomic::{AtomicI64, Ordering::Relaxed};
    static ASKED: AtomicI64 = AtomicI64::new(0);
    ASKED.fetch_add(1000, Relaxed)
}

pub(crate) fn sleep_ms(_ms: u16) {}

/// # Safety
/// None.
pub(crate) unsafe fn environment<'a>() -> impl Iterator<Item = &'a [u8]> {
    core::iter::empty()
}

/// Nothing runs at the end.
pub(crate) fn at_exit(_f: extern "C" fn()) -> bool {
    false
}

/// Nothing is left of a child process that has ended.
pub(crate) fn child_state(_id: u32) -> Option<super::ChildState> {
    None
}
