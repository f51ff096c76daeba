//! tokio's hooks are there under `--cfg tokio_unstable` alone: without it nothing is claimed.

use std::panic::Location;

use ::tokio::runtime::Builder;

/// What is about to be spawned on this thread.
#[derive(Clone, Copy)]
pub(super) enum Spawning {
    Wrapped,
    Ours,
    OursOnce,
}

#[inline(always)]
pub(super) fn claim(_builder: &mut Builder) {}

#[inline(always)]
pub(super) fn spawning<R>(_what: Spawning, spawn: impl FnOnce() -> R) -> R {
    spawn()
}

pub(super) fn made_of(_id: u64) -> Option<&'static Location<'static>> {
    None
}

/// No poll is told by a hook.
pub(super) fn is_trusted() -> bool {
    false
}

pub(crate) fn whole() -> Vec<usize> {
    Vec::new()
}

pub(crate) fn found() -> Option<String> {
    None
}

pub(crate) fn advice() -> Vec<String> {
    Vec::new()
}
