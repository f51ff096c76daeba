//! Where a block came from: capture, intern, classify, resolve.

mod id;

#[allow(unused_imports)]
pub(crate) use id::{Depth, StoredTrace, TraceId};
