//! What an async runtime does wrong: work lost on drop, polls that block, panics that nobody reads.
//!
//! Facts first, a pure judgement, then words: `switch` says what is on; `guard`, `wrapped`, `task`, `panics`,
//! `tokio::watchdog` and `tokio::shutdown` gather facts; `judge`, `proof` and `destroyed` decide; `warning` holds the report;
//! `verdict` says whether it is told or counted, by its site (`sites`) and its filters (`filter`); `reporter` finds names, and
//! `handler` gets what is told; what a filter makes an error waits in `errors`, what arises in a test in `trial`, and `tally`
//! counts. `warnings` is all that users see of it, and `catching` what they catch before it is judged.

#[cfg(feature = "heap")]
mod blocking;
#[cfg(not(feature = "heap"))]
#[path = "blocking_off.rs"]
mod blocking;
#[cfg(feature = "heap")]
mod bound;
#[cfg(feature = "heap")]
mod catching;
#[cfg(feature = "heap")]
mod errors;
#[cfg(feature = "heap")]
mod filter;
#[cfg(feature = "heap")]
mod filters;
#[cfg(feature = "heap")]
mod guard;
#[cfg(not(feature = "heap"))]
#[path = "guard_off.rs"]
mod guard;
#[cfg(feature = "heap")]
mod handler;
#[cfg(feature = "heap")]
mod heap;
#[cfg(feature = "heap")]
pub mod io;
#[cfg(feature = "heap")]
mod locks;
#[cfg(feature = "heap")]
pub mod process;
#[cfg(feature = "heap")]
mod reporter;
#[cfg(feature = "heap")]
mod sites;
#[cfg(feature = "heap")]
mod switch;
#[cfg(feature = "heap")]
pub mod sync;
#[cfg(feature = "heap")]
mod tally;
#[cfg(feature = "heap")]
mod trial;
#[cfg(feature = "heap")]
mod verdict;
#[cfg(feature = "heap")]
mod warning;
#[cfg(feature = "heap")]
pub mod warnings;

#[cfg(feature = "heap")]
mod clock;
#[cfg(feature = "tokio")]
mod destroyed;
#[cfg(feature = "heap")]
mod judge;
#[cfg(feature = "tokio")]
pub(crate) mod panics;
#[cfg(feature = "heap")]
pub(crate) mod poll;
#[cfg(feature = "tokio")]
mod procfs;
#[cfg(feature = "tokio")]
#[cfg_attr(not(unix), path = "quit_none.rs")]
mod quit;
#[cfg(feature = "tokio")]
mod stuck;
#[cfg(feature = "tokio")]
mod task;
#[cfg(feature = "heap")]
pub mod tasks;
#[cfg(feature = "tokio")]
pub mod tokio;
#[cfg(feature = "heap")]
mod units;
#[cfg(feature = "heap")]
mod unpolled;
#[cfg(feature = "heap")]
mod wrapped;

#[cfg(feature = "heap")]
pub use blocking::block_on;
pub use blocking::blocking_call;
#[cfg(feature = "heap")]
pub use bound::ThreadBound;
pub use guard::ResourceGuard;
#[cfg(feature = "heap")]
pub(crate) use reporter::errors_wait;
#[cfg(feature = "heap")]
pub use switch::{set_debug, set_slow_callback_duration};
#[cfg(feature = "heap")]
pub(crate) use tally::summary;
#[cfg(feature = "heap")]
pub(crate) use tasks::saw_a_runtime;
#[cfg(feature = "heap")]
pub(crate) use warning::Kind;
#[cfg(feature = "heap")]
pub use wrapped::{WatchExt, Watched, watched};
