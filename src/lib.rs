//! Birthmark: Python's Development Mode for Rust.

#[cfg(feature = "heap")]
mod config;
#[cfg(feature = "heap")]
mod report;
#[cfg(feature = "heap")]
mod trace;
