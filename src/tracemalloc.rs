//! Python's `tracemalloc`: start, stop, and questions about what is traced.

use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::block::fork;
use crate::hook;
use crate::mode::{self, HEAP, TRACE};
use crate::table::{self, State, accounts, counters};
use crate::thread::Ours;
use crate::trace::frame::Traceback;
use crate::trace::{RawStack, generation, intern, resolve};

/// Traces every block from now on with `frames` of the user's frames, 1 to 65,535. While tracing it changes nothing, as in
/// Python; nor does it where `TRACEMALLOC=0` switched tracing off.
///
/// # Panics
/// When `frames` is 0.
#[track_caller]
pub fn start(frames: u16) {
    assert!(frames != 0, "birthmark::tracemalloc::start(0): the number of frames must be 1 to 65535");
    if hook::tracing_forbidden() {
        return;
    }
    if is_tracing() {
        return;
    }
    fork::begin();
    if mode::mode() & HEAP != 0 {
        table::keep_threads();
    }
    let edge = intern::edge();
    if generation::begin(|c| (!c.on()).then_some((frames, true))) {
        intern::forget_below(edge);
        accounts::sweep();
    }
    mode::set(TRACE);
}

/// Stops tracing and forgets all traces.
pub fn stop() {
    STOPPED.store(true, Relaxed);
    let edge = intern::edge();
    if generation::begin(|c| c.on().then_some((c.limit(), false))) {
        intern::forget_below(edge);
        accounts::sweep();
    }
    // TRACE stays: blocks that have a record give it back when they are freed, or a later block around its place would
    // be taken for it.
}

static STOPPED: AtomicBool = AtomicBool::new(false);

/// Whether blocks may have gone without a record since tracing began.
#[cfg_attr(not(feature = "tokio"), allow(dead_code))]
pub(crate) fn was_stopped() -> bool {
    STOPPED.load(Relaxed)
}

/// Forgets all traces and goes on tracing: blocks made before count as untraced.
pub fn clear_traces() {
    let edge = intern::edge();
    if generation::begin(|c| c.on().then_some((c.limit(), true))) {
        intern::forget_below(edge);
        accounts::sweep();
    }
}

/// Whether blocks are traced.
pub fn is_tracing() -> bool {
    generation::control().on()
}

/// How many of the user's frames a trace keeps; 1 while not tracing, as in Python.
#[doc(alias = "get_traceback_limit")]
pub fn traceback_limit() -> u16 {
    let c = generation::control();
    if c.on() { c.limit() } else { 1 }
}

/// Bytes in traced live blocks now, and the most there were since tracing began or [`reset_peak`].
#[doc(alias = "get_traced_memory")]
pub fn traced_memory() -> (u64, u64) {
    let (bytes, _, peak) = counters::traced();
    (bytes, peak)
}

/// Forgets the peak.
pub fn reset_peak() {
    counters::reset_peak();
}

/// Bytes of Birthmark's own memory for traces: stored stacks and their index.
#[doc(alias = "get_tracemalloc_memory")]
pub fn tracemalloc_memory() -> u64 {
    intern::bytes() as u64
}

/// The stack that made the block in which `value` lies; nothing where the block isn't traced, or where `value` lies on no heap.
///
/// ```no_run
/// let name = String::from("birthmark");
/// if let Some(traceback) = birthmark::tracemalloc::traceback_of(name.as_str()) {
///     println!("{traceback}");
/// }
/// ```
#[doc(alias = "get_object_traceback")]
pub fn traceback_of<T: ?Sized>(value: &T) -> Option<Traceback> {
    traceback_of_ptr(core::ptr::from_ref(value).cast())
}

/// As [`traceback_of`] for an address, which may point inside a block. The address is only compared, never read.
pub fn traceback_of_ptr(p: *const u8) -> Option<Traceback> {
    let block = table::block_at(p as usize)?;
    let id = block.trace?.0.get();
    let live = matches!(block.state, State::Live | State::HeldLive);
    if !live || !generation::control().holds(id) {
        return None;
    }
    let _ours = Ours::enter();
    Some(resolve::traceback(&RawStack::of(id)?))
}
