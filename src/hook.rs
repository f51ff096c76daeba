//! What happens at an allocation, a free and a `realloc`, stage by stage. Called by the generic shell, not generic itself.
//!
//! Runs inside an allocation. Each entry is a naked function that hands its caller's registers on, since the shell
//! gets inlined into functions of the user's.

use core::alloc::Layout;
use core::sync::atomic::{
    AtomicBool, AtomicU32,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use crate::block::heap::{self, Call, MOVED};
use crate::block::{fork, layout, quarantine};
use crate::config::{self, Defaults};
use crate::mode::{self, HEAP, READY, TASKS, TRACE, WATCH, mode};
use crate::sys;
use crate::sys::line::line;
use crate::table::{self, Record, accounts, counters};
use crate::thread;
#[cfg(native)]
use crate::trace;
use crate::trace::capture::{Start, capture};
use crate::trace::generation::{self, Control, control};

/// 0: nobody began; 1: somebody sets things up; 2: done.
static STAGE: AtomicU32 = AtomicU32::new(0);

/// Reads the variables and decides what is on, at the process's first allocation.
#[cold]
#[inline(never)]
pub(crate) fn begin(defaults: &Defaults) -> u32 {
    if STAGE.compare_exchange(0, 1, AcqRel, Acquire).is_ok() {
        let set_up = || {
            let settings = config::read(defaults);
            #[cfg(native)]
            {
                sys::look_up_names();
                trace::modules::list_at_start();
            }
            FORBIDDEN.store(settings.forbidden, Relaxed);
            thread::make_key();
            if settings.heap.is_some() || settings.tracemalloc != 0 {
                fork::begin();
            }
            let mut bits = READY;
            if let Some(heap) = settings.heap {
                quarantine::set_budget(heap.quarantine);
                bits |= HEAP;
            }
            if settings.tracemalloc != 0 {
                let limit = settings.tracemalloc;
                generation::begin(|_| Some((limit, true)));
                bits |= TRACE;
            }
            if bits & HEAP != 0 && bits & TRACE != 0 {
                table::keep_threads();
            }
            mode::set(bits);
            STAGE.store(2, Release);
        };
        // A handler of this thread that allocated meanwhile would wait for us.
        sys::keep_errno(|| sys::without_signals(set_up));
    }
    // Another thread is at it, in a process that starts threads before its first allocation. What is made meanwhile must
    // lie as it will be freed, so here, and only here, one waits.
    while mode() & READY == 0 {
        core::hint::spin_loop();
    }
    mode()
}

/// What is asked of the inner allocator for this layout.
#[inline(always)]
pub(crate) fn outer(mode: u32, layout: Layout) -> Option<Layout> {
    if mode & HEAP == 0 {
        Some(layout::plain(layout))
    } else {
        layout::guarded(layout.size(), layout.align())
    }
}

macro_rules! entry {
    ($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?, $sp:literal, $fp:literal, $to:ident) => {
        $(#[$doc])*
        #[cfg(native)]
        #[unsafe(naked)]
        pub(crate) unsafe extern "C" fn $name($($arg: $type),*) $(-> $result)? {
            core::arch::naked_asm!(concat!("mov ", $sp, ", rsp"), concat!("mov ", $fp, ", rbp"), "jmp {}", sym $to)
        }
        $(#[$doc])*
        #[cfg(not(native))]
        #[inline(never)]
        pub(crate) unsafe extern "C" fn $name($($arg: $type),*) $(-> $result)? {
            // SAFETY: the same call.
            unsafe { $to($($arg),*) }
        }
    };
}

#[cfg(native)]
macro_rules! hook {
    (unsafe fn $name:ident($($arg:ident: $type:ty),*; $start:ident) $(-> $result:ty)? $body:block) => {
        unsafe extern "C" fn $name($($arg: $type,)* sp: usize, fp: usize) $(-> $result)? {
            let $start = Start { sp, fp };
            $body
        }
    };
}
#[cfg(not(native))]
macro_rules! hook {
    (unsafe fn $name:ident($($arg:ident: $type:ty),*; $start:ident) $(-> $result:ty)? $body:block) => {
        unsafe extern "C" fn $name($($arg: $type),*) $(-> $result)? {
            let $start = Start;
            $body
        }
    };
}

entry! {
    /// A block of the inner allocator becomes the program's: fill and guard, capture, record, count.
    made(base: *mut u8, size: usize, align: usize, zeroed: usize) -> *mut u8, "r8", "r9", on_made
}
entry! {
    /// A block of the program's is freed. What the inner allocator gets back at once, if anything.
    freed(user: *mut u8, size: usize, align: usize, inner: usize) -> *mut u8, "r8", "r9", on_freed
}
entry! {
    /// A block is about to be moved by allocating, copying and freeing: whether it may.
    may_move(user: *mut u8, size: usize, align: usize, inner: usize) -> usize, "r8", "r9", on_may_move
}
entry! {
    /// A block that the inner allocator is about to `realloc` leaves the table. Its record, 0: it must be moved.
    lift(user: *mut u8, size: usize, align: usize, inner: usize) -> u64, "r8", "r9", on_lift
}
entry! {
    /// After the inner `realloc`: the block is back in the table.
    land(user: *mut u8, size: usize, align: usize, old: usize) -> *mut u8, "r8", "r9", on_land
}

hook! {
unsafe fn on_made(base: *mut u8, size: usize, align: usize, zeroed: usize; start) -> *mut u8 {
    // Three functions, each with what it needs: the debug heap alone keeps no registers for a capture.
    let control = control();
    // SAFETY: the same call.
    unsafe {
        if mode() & HEAP == 0 {
            made_with::<false, true>(base, size, align, zeroed, start, control)
        } else if control.on() {
            made_with::<true, true>(base, size, align, zeroed, start, control)
        } else {
            made_with::<true, false>(base, size, align, zeroed, start, control)
        }
    }
}
}

/// # Safety
/// As [`made`]; `HEAP` says whether the debug heap is on, `TRACE` whether it may be traced.
#[inline(never)]
unsafe fn made_with<const HEAP: bool, const TRACE: bool>(
    base: *mut u8,
    size: usize,
    align: usize,
    zeroed: usize,
    start: Start,
    control: Control,
) -> *mut u8 {
    let line = line();
    let slot = thread::slot(line);
    counters::add(&slot.allocated, size as i64, slot.shared);
    // SAFETY: the shell asked for exactly this with `outer`.
    let user = if HEAP { unsafe { heap::dress(base, size, align, zeroed != 0) } } else { base };
    // With tracing stopped, blocks that were traced give their records back when they are freed; new ones need none.
    if HEAP || mode() & mode::TRACE != 0 && control.on() {
        // SAFETY: the registers are those of our entry's caller, on this thread.
        let trace = if TRACE { unsafe { capture(line, slot, control, start) } } else { 0 };
        if TRACE && trace != 0 {
            let mode = mode();
            if mode & TASKS != 0 {
                accounts::born(line, control, user as usize, size, mode);
            }
        }
        let fork = if HEAP { fork::number() } else { 0 };
        let record = Record::live(user as usize, size, align, trace, fork);
        if table::put(user as usize, size, record, &slot.who) && trace != 0 {
            counters::count(slot, control, size as i64, 1);
        }
    }
    #[cfg(feature = "tokio")]
    if mode() & WATCH != 0 && line.armed.get() == size.wrapping_add(1) {
        crate::watch::panics::on_alloc(line, user, size, align);
    }
    let _ = WATCH;
    user
}

hook! {
unsafe fn on_freed(user: *mut u8, size: usize, align: usize, inner: usize; start) -> *mut u8 {
    let control = control();
    let mode = mode();
    #[cfg(feature = "tokio")]
    if mode & WATCH != 0 {
        crate::watch::panics::on_free(user);
    }
    #[cfg(feature = "tokio")]
    if mode & TASKS != 0 && align >= 64 {
        crate::watch::tokio::on_free(user, size);
    }
    if mode & HEAP == 0 {
        return if mode & TRACE != 0 { freed_plain(user, control, mode) } else { user };
    }
    // SAFETY: the program frees the block with this layout.
    unsafe {
        if control.on() {
            freed_guarded::<true>(user, size, align, inner, start, control)
        } else {
            freed_guarded::<false>(user, size, align, inner, start, control)
        }
    }
}
}

#[inline(never)]
fn freed_plain(user: *mut u8, control: Control, mode: u32) -> *mut u8 {
    if let Some((record, size)) = table::take(user as usize)
        && control.holds(record.trace())
    {
        let line = line();
        counters::count(thread::slot(line), control, (size as i64).wrapping_neg(), -1);
        if mode & TASKS != 0 {
            return accounts::gone(line, control, user, size);
        }
    }
    user
}

/// # Safety
/// As [`freed`], under the debug heap; `TRACE` says whether tracing is on.
#[inline(never)]
unsafe fn freed_guarded<const TRACE: bool>(
    user: *mut u8,
    size: usize,
    align: usize,
    inner: usize,
    start: Start,
    control: Control,
) -> *mut u8 {
    let line = line();
    let call = Call { line, slot: thread::slot(line), control, start, inner: inner as u16 };
    // SAFETY: the caller's.
    unsafe { heap::freed::<TRACE>(&call, user, size, align) };
    core::ptr::null_mut()
}

hook! {
unsafe fn on_may_move(user: *mut u8, size: usize, align: usize, inner: usize; start) -> usize {
    let line = line();
    let call = Call { line, slot: thread::slot(line), control: control(), start, inner: inner as u16 | MOVED };
    usize::from(heap::may_move(&call, user, size, align))
}
}

hook! {
unsafe fn on_lift(user: *mut u8, size: usize, align: usize, inner: usize; start) -> u64 {
    let line = line();
    let slot = thread::slot(line);
    let control = control();
    let call = Call { line, slot, control, start, inner: inner as u16 | MOVED };
    let lifted = if mode() & HEAP != 0 {
        heap::lift(&call, user, size, align)
    } else {
        // A block without a record, made before tracing began, is lifted as an empty one.
        Some(table::take(user as usize).map_or(Record(!7), |(record, _)| record))
    };
    // Here and not in `settle`: once the block has moved, its old place may be somebody else's.
    if let Some(record) = lifted
        && mode() & TASKS != 0
        && record.is_block()
        && control.holds(record.trace())
    {
        accounts::gone(line, control, user, size);
    }
    lifted.map_or(0, |record| record.0)
}
}

hook! {
unsafe fn on_land(user: *mut u8, size: usize, align: usize, old: usize; start) -> *mut u8 {
    let mode = mode();
    let line = line();
    let slot = thread::slot(line);
    let control = control();
    counters::add(&slot.allocated, size.saturating_sub(old) as i64, slot.shared);
    if mode & HEAP != 0 {
        // SAFETY: the inner allocator made room for this size; the first `old` bytes came along.
        unsafe { heap::redress(user, old, size) };
    }
    // SAFETY: the registers are those of our entry's caller, on this thread.
    let trace = if control.on() { unsafe { capture(line, slot, control, start) } } else { 0 };
    if mode & TASKS != 0 && trace != 0 {
        accounts::born(line, control, user as usize, size, mode);
    }
    let fork = if mode & HEAP != 0 { fork::number() } else { 0 };
    let record = Record::live(user as usize, size, align, trace, fork);
    if table::put(user as usize, size, record, &slot.who) && trace != 0 {
        counters::count(slot, control, size as i64, 1);
    }
    user
}
}

/// Counts the block of a lifted record out: the inner `realloc` has moved or resized it.
#[inline(always)]
pub(crate) fn settle(lifted: u64, old: usize) {
    let record = Record(lifted);
    let control = control();
    if control.holds(record.trace()) && record.is_block() {
        let line = line();
        counters::count(thread::slot(line), control, (old as i64).wrapping_neg(), -1);
    }
}

/// Puts a lifted record back as it was: the inner `realloc` had no memory, and the block is where it was.
#[cold]
#[inline(never)]
pub(crate) fn put_back(lifted: u64, user: *mut u8, old: usize) {
    let record = Record(lifted);
    if record.is_block() {
        if mode() & TASKS != 0 {
            accounts::forget(user as usize); // `lift` has counted it out
        }
        table::put(user as usize, old, record, &table::thread_of(user as usize).into());
    }
}

/// The inner allocator has no more: gives it what waits in quarantine. Whether that was anything.
#[cold]
#[inline(never)]
pub(crate) fn relieve(mode: u32) -> bool {
    if mode & HEAP == 0 || quarantine::bytes() == 0 {
        return false;
    }
    let line = line();
    if line.busy.get() != 0 {
        return false;
    }
    line.busy.set(1);
    quarantine::empty();
    line.busy.set(0);
    true
}

/// Whether a `DebugAlloc` serves this program.
pub(crate) fn installed() -> bool {
    mode() & READY != 0
}

/// Whether `TRACEMALLOC=0` was set: off over everything.
pub(crate) fn tracing_forbidden() -> bool {
    FORBIDDEN.load(Relaxed)
}

static FORBIDDEN: AtomicBool = AtomicBool::new(false);
