//! Where a block came from: capture, intern, classify, resolve.

#[cfg(native)]
pub(crate) mod capture;
#[cfg(not(native))]
#[path = "capture_portable.rs"]
pub(crate) mod capture;
#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)] // ordinary code
pub(crate) mod frame;
pub(crate) mod generation;
mod id;
pub(crate) mod intern;
pub(crate) mod looking;
#[cfg(native)]
pub(crate) mod memo;
#[cfg(not(native))]
#[path = "memo_portable.rs"]
pub(crate) mod memo;
#[cfg(native)]
pub(crate) mod modules;
pub(crate) mod names;
#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)] // ordinary code
pub(crate) mod owner;
pub(crate) mod resolve;
#[cfg(native)]
pub(crate) mod rules;
#[cfg(native)]
mod scratch;
#[cfg(native)]
mod symbols;
#[cfg(native)]
pub(crate) mod walk;

pub(crate) use id::{Depth, TraceId};
pub(crate) use resolve::RawStack;
