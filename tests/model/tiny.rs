//! Blocks of 1 and 8 bytes, many of them: none lost, none doubled.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::HashSet;

use birthmark::tracemalloc;

const BLOCKS: usize = 40_000;

#[inline(never)]
fn make_tiny(size: usize) -> *mut u8 {
    // SAFETY: the size isn't zero.
    std::hint::black_box(unsafe { alloc(Layout::from_size_align(size, size).unwrap()) })
}

/// The whole test, over whatever allocator the program has.
pub fn none_lost_none_doubled() {
    let mut blocks = Vec::with_capacity(BLOCKS);
    let mut granules = HashSet::with_capacity(BLOCKS);
    let before = tracemalloc::traced_memory().0;
    let mut bytes = 0;
    for i in 0..BLOCKS {
        let size = if i % 2 == 0 { 1 } else { 8 };
        let p = make_tiny(size);
        assert!(!p.is_null());
        assert!(granules.insert(p as usize / 32), "two blocks share the 32 bytes of {p:?}");
        blocks.push((p, size));
        bytes += size as u64;
    }
    if tracemalloc::is_tracing() {
        assert_eq!(tracemalloc::traced_memory().0, before + bytes);
        let snapshot = birthmark::snapshot();
        let count: u64 = snapshot
            .traces()
            .filter(|t| {
                t.traceback.all_frames().iter().any(|f| f.function().is_some_and(|n| n.contains("make_tiny")))
            })
            .map(|t| t.count)
            .sum();
        assert_eq!(count, BLOCKS as u64, "each block once");
    }
    // Every second one goes; the others must still be there.
    for (p, size) in blocks.iter().skip(1).step_by(2) {
        // SAFETY: made by `make_tiny` with this size.
        unsafe { dealloc(*p, Layout::from_size_align(*size, *size).unwrap()) };
    }
    if tracemalloc::is_tracing() {
        for (p, _) in blocks.iter().step_by(2).take(50) {
            assert!(tracemalloc::traceback_of_ptr(*p).is_some());
        }
        for (p, _) in blocks.iter().skip(1).step_by(2).take(50) {
            assert!(tracemalloc::traceback_of_ptr(*p).is_none(), "{p:?} was freed");
        }
    }
    for (p, size) in blocks.iter().step_by(2) {
        // SAFETY: as above.
        unsafe { dealloc(*p, Layout::from_size_align(*size, *size).unwrap()) };
    }
    if tracemalloc::is_tracing() {
        let now = tracemalloc::traced_memory().0;
        // The snapshot's caches of names may have grown: our own are never counted.
        assert_eq!(now, before, "everything was freed");
    }
}
