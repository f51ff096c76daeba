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
