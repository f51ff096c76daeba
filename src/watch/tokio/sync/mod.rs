//! `tokio::sync` with a `oneshot` that tells who left its receiver waiting: a changed `use` line. Everything else of
//! `tokio::sync` is here under its own name.

pub use ::tokio::sync::*;

pub mod oneshot;
