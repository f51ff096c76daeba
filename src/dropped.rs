//! What had to be left out because something ran out: counted, told by snapshots, `doctor()` and one line at exit.
//!
//! Runs inside an allocation.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One reason, and how often it struck.
pub(crate) struct Counter(AtomicU64);

impl Counter {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Table pages that couldn't be had: blocks without a record.
pub(crate) static TABLE: Counter = Counter::new();
/// New stacks without an id or memory for their frames: blocks without a trace.
pub(crate) static TRACES: Counter = Counter::new();
/// Captures that had too little stack or no scratch memory.
pub(crate) static CAPTURES: Counter = Counter::new();
/// Blocks that left without quarantine because its ring couldn't be had, or because a handler interrupted it.
pub(crate) static QUARANTINE: Counter = Counter::new();
/// Threads that walk each stack, since memory for memos had run out.
pub(crate) static MEMOS: Counter = Counter::new();
/// Stacks cut short at a frame without usable unwind tables.
pub(crate) static CUT: Counter = Counter::new();
/// Polls of tasks that found no account: what they made counts for no task.
pub(crate) static ACCOUNTS: Counter = Counter::new();
