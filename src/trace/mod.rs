//! Where a block came from: capture, intern, classify, resolve.

#[cfg(native)]
pub(crate) mod capture;
#[cfg(not(native))]
#[path = "capture_portable.rs"]
pub(crate) mod capture;
pub(crate) mod generation;
mod id;
pub(crate) mod intern;
#[cfg(native)]
pub(crate) mod memo;
#[cfg(native)]
pub(crate) mod modules;
mod names;
#[cfg(native)]
pub(crate) mod rules;
mod symbols;
#[cfg(native)]
pub(crate) mod walk;

pub(crate) use id::{Depth, StoredTrace, TraceId};
