//! `check_heap()`: looks at every block now.

use std::fmt;

use crate::block::check;
use crate::block::facts::Found;
use crate::block::fault::Fault;
use crate::mode::{HEAP, mode};
use crate::report::fault::{Stacks, report};
use crate::report::record::Report;
use crate::report::text::{self, Style};
use crate::report::who::Threads;
use crate::thread::Ours;
use crate::trace::frame::Traceback;
use crate::trace::{RawStack, resolve};

/// A damaged block, or the reason why nothing was checked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum HeapError {
    /// The debug heap is off, so nothing can be checked.
    NotChecking,
    /// A block is damaged.
    Damaged(Damaged),
}

/// What is known of a damaged block. Its `Display` is the report, without the end of its last line.
#[derive(Clone, Debug)]
pub struct Damaged {
    report: Box<Report>,
    allocated: Option<Traceback>,
    address: usize,
    size: usize,
}

impl Damaged {
    /// The field's own word, such as `heap-buffer-overflow`.
    pub fn kind(&self) -> &'static str {
        self.report.kind
    }
    /// The block's address.
    pub fn address(&self) -> usize {
        self.address
    }
    /// Its size in bytes, as asked for.
    pub fn size(&self) -> usize {
        self.size
    }
    /// The stack that made it, where it was traced.
    pub fn allocated(&self) -> Option<&Traceback> {
        self.allocated.as_ref()
    }
}

impl fmt::Display for HeapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotChecking => f.write_str(
                "birthmark: nothing was checked, since the debug heap is off: BIRTHMARK_MALLOC=debug switches it on",
            ),
            Self::Damaged(damaged) => {
                let style = Style::default();
                let text = text::body(&damaged.report, style);
                let head = text::head(damaged.report.kind, &damaged.report.sentence, style);
                write!(f, "{head}\n{}", text.trim_end())
            }
        }
    }
}

impl std::error::Error for HeapError {}

/// Looks at every live and every quarantined block now, beside threads that go on.
///
/// # Errors
/// The damaged blocks; or [`HeapError::NotChecking`] alone, where the debug heap is off.
///
/// ```no_run
/// if let Err(errors) = birthmark::check_heap() {
///     for error in errors {
///         eprintln!("{error}");
///     }
/// }
/// ```
pub fn check_heap() -> Result<(), Vec<HeapError>> {
    if mode() & HEAP == 0 {
        return Err(vec![HeapError::NotChecking]);
    }
    let mut found: Vec<Fault> = Vec::new();
    {
        let _ours = Ours::enter();
        check::sweep(Found::Check, &mut |fault| found.push(fault));
    }
    if found.is_empty() {
        return Ok(());
    }
    Err(found.iter().map(|fault| HeapError::Damaged(describe(fault))).collect())
}

fn describe(fault: &Fault) -> Damaged {
    let _ours = Ours::enter();
    let block = fault.facts.block;
    let stack = |id: u32| (id != 0).then(|| RawStack::of(id)).flatten();
    let stacks = Stacks {
        allocated: stack(block.map_or(0, |block| block.trace)),
        freed: stack(block.and_then(|block| block.free).map_or(0, |free| free.freed_by)),
        found: None,
    };
    let report = report(fault, &stacks, &Threads::of(fault), &resolve::traceback);
    Damaged {
        report: Box::new(report),
        allocated: stacks.allocated.as_ref().map(resolve::traceback),
        address: fault.facts.pointer,
        size: block.map_or(0, |block| block.size),
    }
}
