//! What is on, as one word that every allocation reads first.
//!
//! Runs inside an allocation.

use core::sync::atomic::{
    AtomicU32,
    Ordering::{AcqRel, Relaxed},
};

/// The variables were read, and padding is decided.
pub(crate) const READY: u32 = 1;
/// The debug heap: every block has red zones and a record. Decided with [`READY`], for good.
pub(crate) const HEAP: u32 = 2;
/// Blocks are traced, or were and may be again.
pub(crate) const TRACE: u32 = 4;
/// Somebody asks how much each thread allocates.
pub(crate) const COUNT: u32 = 8;
/// A panic's payload is awaited or watched.
pub(crate) const WATCH: u32 = 16;
/// This process only finds names for a fatal report: all memory comes from an arena.
pub(crate) const NAMING: u32 = 32;
/// Blocks of tasks have, or had, an account: the column of tasks is kept.
pub(crate) const TASKS: u32 = 64;
/// Whose task allocates is asked.
pub(crate) const ASK: u32 = 128;

static MODE: AtomicU32 = AtomicU32::new(0);

/// What is on.
#[inline(always)]
pub(crate) fn mode() -> u32 {
    MODE.load(Relaxed)
}

/// Switches on.
pub(crate) fn set(bits: u32) {
    MODE.fetch_or(bits, AcqRel);
}

/// Switches off.
pub(crate) fn clear(bits: u32) {
    MODE.fetch_and(!bits, AcqRel);
}
