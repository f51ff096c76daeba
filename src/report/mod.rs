//! Words for people: facts first, then a judgement made by a pure function, then words.
//!
//! [`facts`] are numbers; [`fault`] names what is wrong from them alone; [`record`] is a report as plain data, which
//! [`text`] and [`json`] write into any `core::fmt::Write`, without a heap; [`sink`] delivers it. A report of heap
//! corruption goes through [`fatal`]: its first line at once, its names from a child process.

#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used, clippy::panic)]
#![allow(dead_code)] // until the heap and the runtime send their reports

pub(crate) mod buffer;
pub(crate) mod facts;
pub(crate) mod fault;
pub(crate) mod fd;
pub(crate) mod json;
pub(crate) mod path;
pub(crate) mod record;
mod shown;
pub(crate) mod text;
