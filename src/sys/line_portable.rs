//! One record for each thread, by `thread_local!`, where the thread pointer's way isn't known.
//!
//! Runs inside an allocation: constant and without a destructor.

use core::cell::Cell;
use core::ptr::null;

use crate::table::accounts::Account;
use crate::thread::Slot;

/// What a hook must know of its thread before anything else.
pub(crate) struct Line {
    /// The thread's slot; null before its first hook.
    pub slot: Cell<*const Slot>,
    /// Nonzero while a capture runs on this thread.
    pub inside: Cell<usize>,
    /// How many of our own sections this thread is in: blocks made there have no trace.
    pub ours: Cell<u32>,
    /// 1 once the thread's key was destroyed: the shared slot from then on.
    pub done: Cell<u32>,
    /// Size + 1 of the allocation that the panic hook waits for, or 0.
    #[cfg_attr(not(feature = "tokio"), allow(dead_code))]
    pub armed: Cell<usize>,
    /// Depth of quarantine work on this thread: a handler that frees meanwhile must not touch the ring.
    pub busy: Cell<u32>,
    /// How many `warnings::catch` this thread is in.
    pub catching: Cell<u32>,
    /// The task that the wrapped poll which this thread is in belongs to, by its key in `table::accounts`; 0: none.
    pub task: Cell<u64>,
    /// The task that allocated last on this thread, by its key; 0: none did.
    pub seen: Cell<u64>,
    /// Its account; null where it got none.
    pub account: Cell<*const Account>,
}

thread_local!(static LINE: Line = const { Line {
    slot: Cell::new(null()), inside: Cell::new(0), ours: Cell::new(0), done: Cell::new(0), armed: Cell::new(0),
    busy: Cell::new(0), catching: Cell::new(0), task: Cell::new(0), seen: Cell::new(0), account: Cell::new(null()),
} });

/// This thread's line.
#[inline(always)]
pub(crate) fn line() -> &'static Line {
    // SAFETY: a constant thread-local without a destructor stays readable until the thread's memory goes; no reference
    // leaves the hook that asked.
    LINE.with(|l| unsafe { &*(l as *const Line) })
}
