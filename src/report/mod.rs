//! Words for people: facts first, then a judgement made by a pure function, then words.

#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used, clippy::panic)]

pub(crate) mod buffer;
pub(crate) mod fd;
