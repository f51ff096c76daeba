//! One cache line for each thread, found by the thread pointer.
//!
//! An initial-exec variable: in a cdylib `thread_local!` goes through `__tls_get_addr`, whose first use on a thread
//! may take the loader's lock and allocate. Zero at first, no destructor. Runs inside an allocation.

use core::arch::{asm, global_asm};
use core::cell::Cell;

use crate::table::accounts::Account;
use crate::thread::Slot;

/// What a hook must know of its thread before anything else.
#[repr(C, align(64))]
pub(crate) struct Line {
    /// The thread's slot; null before its first hook.
    pub slot: Cell<*const Slot>,
    /// Stack pointer of the capture that is running on this thread, or 0.
    pub inside: Cell<usize>,
    /// How many of our own sections this thread is in: blocks made there have no trace.
    pub ours: Cell<u32>,
    /// 1 once the thread's key was destroyed: the shared slot from then on.
    pub done: Cell<u32>,
    /// Size + 1 of the allocation that the panic hook waits for, or 0.
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
const _: () = assert!(size_of::<Line>() == 64);

macro_rules! symbol {
    () => {
        concat!("birthmark_line_", env!("CARGO_PKG_VERSION_MAJOR"), "_", env!("CARGO_PKG_VERSION_MINOR"))
    };
}

global_asm!(
    ".pushsection .tbss.birthmark,\"awT\",@nobits",
    concat!(".globl ", symbol!()),
    concat!(".hidden ", symbol!()),
    concat!(".type ", symbol!(), ",@object"),
    concat!(".size ", symbol!(), ",64"),
    ".balign 64",
    concat!(symbol!(), ":"),
    ".zero 64",
    ".popsection",
);

/// This thread's line.
#[inline(always)]
pub(crate) fn line() -> &'static Line {
    let p: *const Line;
    // SAFETY: reads the variable's offset and the thread pointer; writes nothing but the output register.
    unsafe {
        asm!(
            concat!("mov {0}, qword ptr [rip + ", symbol!(), "@GOTTPOFF]"),
            "add {0}, qword ptr fs:[0]",
            out(reg) p,
            options(pure, readonly, nostack),
        );
    }
    debug_assert!(!p.is_null());
    // SAFETY: the thread's static block holds this variable while the thread runs; only the thread itself (and its
    // own signal handlers) uses the cells, and no reference leaves the hook that asked.
    unsafe { &*p }
}
