//! Birthmark: Python's Development Mode for Rust. Find out who allocated it.
//!
//! ```no_run
//! #[global_allocator]
//! static A: birthmark::DebugAlloc = birthmark::DebugAlloc::new();
//!
//! use birthmark::{GroupBy, snapshot};
//!
//! fn main() {
//!     birthmark::tracemalloc::start(5);
//!     let before = snapshot();
//!     let kept: Vec<String> = (0..1000).map(|i| i.to_string()).collect();
//!     println!("{}", snapshot().compare_to(&before, GroupBy::Line));
//!     drop(kept);
//! }
//! ```
//!
//! | pillar | Python's | begin with |
//! |---|---|---|
//! | who holds the memory, what grew | `tracemalloc` | [`tracemalloc`], [`snapshot`](snapshot()), [`Snapshot`] |
//! | who corrupted it, freed it twice, wrote after its free | `PYTHONMALLOC=debug` | `BIRTHMARK_MALLOC=debug`, [`check_heap`] |
//! | which task blocks the runtime, what was lost on drop | asyncio's debug mode, `ResourceWarning` | `birthmark::tokio`, [`io`], [`process`], [`ResourceGuard`] |
//!
//! Nothing is on until a variable or a call says so, but for the debug heap in builds with `debug_assertions`. The variables and
//! the prices stand in the README; [`doctor`] tells what is on and what to change.
//!
//! # What happens in the awkward cases
//!
//! - *A block made before tracing began*, or before `clear_traces`: it is untraced, and its free counts nowhere.
//! - *A block freed after `stop`*: nothing; its record goes with it.
//! - *A thread with a stack too small for a walk, no memory for a new stack*: the block has no trace, and is counted in
//!   [`Dropped`], which the snapshot's head, [`doctor`] and one line at exit tell.
//! - *`fork`*: the child goes on; it reports no damage of its parent's blocks, but what it writes itself to one after its own
//!   free of it. Where another thread of the parent held a lock of the loader or of `backtrace`, names have no lines in it.
//! - *A fault of the heap*: one report, then `SIGABRT`, unless `on_error=continue`.
//!
//! # The modules, as an allocation passes them
//!
//! `alloc` (the generic shell) hands on to `hook`, which asks `block` (layout, fill, red zones, quarantine), `trace` (capture,
//! memo, walk, rules, intern) and `table` (records by address, counters). `snapshot` copies the table; `watch` looks at the
//! runtime; `report` finds words for both. `config` reads the variables, `sys` is what differs by platform, and `thread`
//! keeps what each thread's hooks need.

// Code that runs inside an allocation must not panic, and most of this crate is such code. The modules of ordinary code say so
// where they are declared.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

#[cfg(feature = "heap")]
mod alloc;
#[cfg(feature = "heap")]
mod block;
#[cfg(feature = "heap")]
mod config;
#[cfg(feature = "heap")]
mod doctor;
#[cfg(feature = "heap")]
mod dropped;
#[cfg(feature = "heap")]
mod free_list;
#[cfg(feature = "heap")]
mod heap_check;
#[cfg(feature = "heap")]
mod hook;
#[cfg(feature = "heap")]
mod mode;
#[cfg(feature = "heap")]
mod report;
#[cfg(feature = "heap")]
#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)] // ordinary code
mod snapshot;
#[cfg(feature = "heap")]
mod sys;
#[cfg(feature = "heap")]
mod table;
#[cfg(feature = "heap")]
mod thread;
#[cfg(feature = "heap")]
mod trace;
#[cfg(feature = "heap")]
pub mod tracemalloc;
#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic)] // ordinary code
mod watch;

#[cfg(feature = "heap")]
pub use alloc::DebugAlloc;
#[cfg(feature = "heap")]
pub use doctor::{Doctor, doctor};
#[cfg(feature = "heap")]
pub use heap_check::{Damaged, HeapError, check_heap};
#[cfg(feature = "heap")]
pub use snapshot::{
    Dropped, Filter, GroupBy, Key, NotTracing, Snapshot, Statistic, StatisticDiff, Statistics,
    StatisticsDiff, Trace, format_size, snapshot, try_snapshot,
};
#[cfg(feature = "heap")]
pub use trace::frame::{Frame, Owner, Traceback};
#[cfg(feature = "heap")]
pub use watch::ThreadBound;
#[cfg(feature = "heap")]
pub use watch::tasks::{self, all_tasks, current_task};
#[cfg(feature = "tokio")]
pub use watch::tokio;
pub use watch::{ResourceGuard, blocking_call};
#[cfg(feature = "heap")]
pub use watch::{
    WatchExt, Watched, block_on, io, process, set_debug, set_slow_callback_duration, sync, warnings, watched,
};
