//! What is wrong with a block, as plain facts; and the way from there to the report.
//!
//! Runs inside an allocation.

use super::heap::Call;
use super::pattern::Damage;
use super::quarantine::{self, Entry};
use crate::config::settings;
use crate::{report, table};

/// The kind of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Overflow,
    Underflow,
    UseAfterFree,
    DoubleFree,
    InvalidFree,
    LayoutMismatch,
}

/// Where it was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    Free,
    Realloc,
    Quarantine,
    Check,
    Exit,
}

/// Everything that is known of a fault: addresses and numbers, no words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub kind: Kind,
    /// The block: 0 where the pointer belongs to none.
    pub start: usize,
    pub size: usize,
    pub align: usize,
    /// The pointer that was freed.
    pub pointer: usize,
    /// Size and alignment in the layout that the program gave.
    pub asked: Option<(usize, usize)>,
    /// Damage to the zone before the block, offsets from the zone's first byte.
    pub before: Option<Damage>,
    /// Damage to the zone behind it.
    pub behind: Option<Damage>,
    /// Damage to the freed block itself.
    pub within: Option<Damage>,
    /// Whether the block is freed already.
    pub freed: bool,
    /// The stack that made it, 0: none kept.
    pub trace: u32,
    /// The thread that made it, by its number in `thread::names`, 0: not kept.
    pub thread: u32,
    /// Its free.
    pub free: Option<Entry>,
    /// Made before a fork: the damage may be the parent's.
    pub inherited: bool,
}

impl Facts {
    pub(crate) fn of(kind: Kind, start: usize, size: usize, align: usize) -> Self {
        Self {
            kind,
            start,
            size,
            align,
            pointer: start,
            asked: None,
            before: None,
            behind: None,
            within: None,
            freed: false,
            trace: 0,
            thread: table::thread_of(start),
            free: None,
            inherited: false,
        }
    }
}

/// Whether the program goes on after a report.
pub(crate) fn goes_on() -> bool {
    settings().heap.is_some_and(|h| h.go_on)
}

/// Tells a fault found in a call of the program's, and ends it unless it was told to go on.
#[cold]
#[inline(never)]
pub(crate) fn tell(facts: Facts, found: Found, call: &Call<'_>) {
    let facts = match facts.kind {
        Kind::DoubleFree | Kind::UseAfterFree if facts.free.is_none() => {
            Facts { free: quarantine::find(facts.start), ..facts }
        }
        _ => facts,
    };
    report::fatal::tell(&facts, found, Some(call.start));
    end();
}

/// Tells a fault found in the heap's own work, where the present stack has no part in it.
#[cold]
#[inline(never)]
pub(crate) fn tell_anywhere(facts: Facts, found: Found) {
    report::fatal::tell(&facts, found, None);
    end();
}

fn end() {
    if !goes_on() {
        // SAFETY: ends the process.
        unsafe { libc::abort() }
    }
}
