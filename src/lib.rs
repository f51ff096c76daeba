//! Birthmark: Python's Development Mode for Rust.

#[cfg(feature = "heap")]
mod alloc;
#[cfg(feature = "heap")]
mod block;
#[cfg(feature = "heap")]
mod dropped;
#[cfg(feature = "heap")]
mod hook;
#[cfg(feature = "heap")]
mod mode;
#[cfg(feature = "heap")]
mod settings;
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

#[cfg(feature = "heap")]
pub use alloc::DebugAlloc;
mod watch;

pub use watch::ResourceGuard;
#[cfg(feature = "tokio")]
pub use watch::tokio;
#[cfg(feature = "tokio")]
pub use watch::{WatchExt, Watched, watched};
#[cfg(feature = "heap")]
pub use watch::{set_debug, set_slow_callback_duration};
