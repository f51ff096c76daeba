//! Birthmark: Python's Development Mode for Rust.

#[cfg(feature = "heap")]
mod trace;
