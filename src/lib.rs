//! Birthmark: Python's Development Mode for Rust.

#[cfg(feature = "heap")]
mod alloc;
#[cfg(feature = "heap")]
mod block;
#[cfg(feature = "heap")]
mod config;
#[cfg(feature = "heap")]
mod dropped;
#[cfg(feature = "heap")]
mod heap_check;
#[cfg(feature = "heap")]
mod hook;
#[cfg(feature = "heap")]
mod mode;
#[cfg(feature = "heap")]
mod report;
#[cfg(feature = "heap")]
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
mod watch;

#[cfg(feature = "heap")]
pub use alloc::DebugAlloc;
#[cfg(feature = "heap")]
pub use heap_check::{Damaged, HeapError, check_heap};
#[cfg(feature = "heap")]
pub use snapshot::{
    Dropped, Filter, GroupBy, Key, NotTracing, Snapshot, Statistic, StatisticDiff, Statistics,
    StatisticsDiff, Trace, format_size, snapshot, try_snapshot,
};
#[cfg(feature = "heap")]
pub use trace::frame::{Frame, Owner, Traceback};
pub use watch::ResourceGuard;
#[cfg(feature = "tokio")]
pub use watch::tokio;
#[cfg(feature = "tokio")]
pub use watch::{WatchExt, Watched, watched};
#[cfg(feature = "heap")]
pub use watch::{set_debug, set_slow_callback_duration};
