//! Words for people and lines for tools: from plain facts to a report that is written once.

mod arena;
pub(crate) mod at_exit;
pub(crate) mod buffer;
#[cfg_attr(not(target_os = "linux"), path = "child_portable.rs")]
pub(crate) mod child;
pub(crate) mod damage;
pub(crate) mod fatal;
pub(crate) mod fault;
mod json;
mod path;
mod raw;
pub(crate) mod record;
pub(crate) mod repeats;
mod scratch;
#[allow(clippy::arithmetic_side_effects)] // ordinary code, as the naming child is
mod share;
pub(crate) mod sink;
mod stack;
#[allow(clippy::arithmetic_side_effects)] // as `share`
pub(crate) mod text;
mod turn;
pub(crate) mod who;

pub(crate) use arena::{arena_alloc, arena_realloc};
