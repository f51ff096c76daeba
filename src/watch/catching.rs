//! What `warnings::catch` collects: the warnings that arise on a thread, before they are judged.

use std::cell::{Cell, RefCell};
use std::ptr::{NonNull, null};

use super::warning::{Kind, Warning};
use super::{heap, reporter};
use crate::sys::line::line;

thread_local! {
    /// Where this thread's warnings go; null: to the reporter.
    static CATCHER: Cell<*const Catcher> = const { Cell::new(null()) };
}

/// Collects warnings while it is entered.
#[derive(Debug, Default)]
pub(super) struct Catcher {
    caught: RefCell<Vec<Warning>>,
}

impl Catcher {
    pub(super) fn enter(&self) -> Entered<'_> {
        let line = line();
        line.catching.set(line.catching.get().saturating_add(1));
        Entered { catcher: self, outer: CATCHER.replace(self) }
    }

    /// What was caught.
    pub(super) fn take(&self) -> Vec<Warning> {
        self.caught.take()
    }

    fn keep(&self, warning: Warning) {
        let _ours = heap::ours();
        self.caught.borrow_mut().push(warning);
    }
}

/// What nobody took (a panic went through) is told as if it hadn't been caught.
impl Drop for Catcher {
    fn drop(&mut self) {
        self.take().into_iter().for_each(reporter::tell);
    }
}

/// Until it is dropped, on the thread that made it.
pub(super) struct Entered<'a> {
    catcher: &'a Catcher,
    outer: *const Catcher,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        drain(self.catcher);
        CATCHER.set(self.outer);
        let line = line();
        line.catching.set(line.catching.get().saturating_sub(1));
    }
}

/// The unread panics that this thread found.
fn drain(_catcher: &Catcher) {
    #[cfg(feature = "tokio")]
    {
        let _ours = heap::ours();
        super::panics::take_caught().into_iter().for_each(|warning| _catcher.keep(warning));
    }
}

fn current<R>(act: impl FnOnce(&Catcher) -> R) -> Option<R> {
    let catcher = NonNull::new(CATCHER.get().cast_mut())?;
    // SAFETY: the `Entered` that set it borrows the catcher, and puts the outer one back before the borrow ends; it is on
    // this thread's stack, never forgotten.
    Some(act(unsafe { catcher.as_ref() }))
}

/// Makes room for further panics on this thread. Ordinary code.
#[cfg(feature = "tokio")]
pub(super) fn make_room() {
    current(drain);
}

/// Gives a warning that has arisen on this thread to whoever catches here; gives it back where nobody does.
pub(super) fn offer(warning: Warning) -> Option<Warning> {
    // Those are found by the watchdog, and partly told while the poll lasts.
    if CATCHER.get().is_null() || matches!(warning.kind, Kind::SlowCallback | Kind::WorkerBusy) {
        return Some(warning);
    }
    current(|catcher| catcher.keep(warning));
    None
}
