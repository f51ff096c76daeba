//! Memory for the process that only finds names: taken from one mapping, never given back.
//!
//! The heap that it inherits may be damaged or locked. Runs inside an allocation.

use core::alloc::Layout;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::sys;

const CHUNK: usize = 64 << 20;
static AT: AtomicUsize = AtomicUsize::new(0);
static END: AtomicUsize = AtomicUsize::new(0);

/// A block of fresh zeroes. One thread only.
pub(crate) fn arena_alloc(layout: Layout) -> *mut u8 {
    let need = layout.size().max(1);
    let mut start = AT.load(Relaxed).next_multiple_of(layout.align());
    if AT.load(Relaxed) == 0 || start.saturating_add(need) > END.load(Relaxed) {
        let bytes = CHUNK.max(need.saturating_add(layout.align()));
        let Some(chunk) = sys::map(bytes) else { return core::ptr::null_mut() };
        let chunk = chunk.as_ptr() as usize;
        END.store(chunk.wrapping_add(bytes), Relaxed);
        start = chunk.next_multiple_of(layout.align());
    }
    AT.store(start.wrapping_add(need), Relaxed);
    start as *mut u8
}

/// A larger block with the old one's bytes.
///
/// # Safety
/// `p` is a readable block of `layout`.
pub(crate) unsafe fn arena_realloc(p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
    let Ok(new) = Layout::from_size_align(size, layout.align()) else { return core::ptr::null_mut() };
    let q = arena_alloc(new);
    if !q.is_null() {
        // SAFETY: the new block is fresh and as large as the part that is copied; the caller's word for the old one.
        unsafe { q.copy_from_nonoverlapping(p, layout.size().min(size)) };
    }
    q
}
