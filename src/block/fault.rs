//! From a judgement to its report, and to the program's end.
//!
//! Runs inside an allocation.

use super::diagnose::{Diagnosis, diagnose};
use super::facts::BlockFacts;
use super::heap::Call;
use crate::config::settings;
use crate::report;

/// A fault, with the facts that it was judged by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub diagnosis: Diagnosis,
    pub facts: BlockFacts,
}

impl Fault {
    /// The facts, judged; nothing where they are no fault.
    pub(crate) fn of(facts: BlockFacts) -> Option<Self> {
        diagnose(&facts).map(|diagnosis| Self { diagnosis, facts })
    }
}

/// Whether the program goes on after a report.
pub(crate) fn goes_on() -> bool {
    settings().heap.is_some_and(|h| h.go_on)
}

/// Tells a fault found in a call of the program's, and ends it unless it was told to go on.
#[cold]
#[inline(never)]
pub(crate) fn tell(fault: &Fault, call: &Call<'_>) {
    report::fatal::tell(fault, Some(call.start));
    end();
}

/// Tells a fault found in the heap's own work, where the present stack has no part in it.
#[cold]
#[inline(never)]
pub(crate) fn tell_anywhere(fault: &Fault) {
    report::fatal::tell(fault, None);
    end();
}

fn end() {
    if !goes_on() {
        std::process::abort()
    }
}
