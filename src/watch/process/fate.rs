//! What becomes of a child process: whether anybody waited for it before it was dropped. std's and tokio's alike.

use crate::ResourceGuard;
use crate::sys::{self, ChildState};

/// A child's, beside it: says at its drop that nobody waited.
#[derive(Debug)]
pub(crate) struct Fate {
    guard: ResourceGuard,
    /// Nothing where there is nobody to wait for.
    id: Option<u32>,
    /// Its program, while async debug is on.
    program: String,
    /// The runtime takes it away when it has ended: it won't stay a zombie.
    collected: bool,
}

impl Fate {
    /// Of a child that was spawned by the caller.
    #[inline]
    pub(crate) fn new(id: Option<u32>, call_instead: &'static str, program: impl FnOnce() -> String) -> Self {
        let guard = ResourceGuard::new("Child", call_instead).unit("process that nobody has waited for");
        let mut fate = Self { guard, id, program: String::new(), collected: false };
        if fate.guard.is_on() {
            fate.program = program();
            fate.guard.owe(1);
        }
        fate
    }

    /// Of a child that its runtime takes away.
    #[cfg(feature = "tokio-process")]
    pub(crate) fn collected(mut self) -> Self {
        self.collected = true;
        self
    }

    /// The caller's line is where it was touched last.
    #[inline]
    #[track_caller]
    pub(crate) fn touch(&self) {
        self.guard.touch();
    }

    /// Nobody needs to wait any more.
    #[inline]
    pub(crate) fn waited(&self) {
        self.guard.settle();
    }

    #[cold]
    #[inline(never)]
    fn unwaited(&self) {
        let Some(id) = self.id else { return self.guard.settle() };
        match sys::child_state(id) {
            Some(state) => {
                self.guard.lost(|what| words(what, id, &self.program, state, self.collected), Vec::new());
            }
            // Somebody else waited.
            None => self.guard.settle(),
        }
    }
}

impl Drop for Fate {
    #[inline]
    fn drop(&mut self) {
        if self.guard.is_on() && self.guard.undone() != 0 {
            self.unwaited();
        }
    }
}

fn words(what: &str, id: u32, program: &str, state: ChildState, collected: bool) -> String {
    let name = if program.is_empty() { String::new() } else { format!(" `{program}`") };
    let end = match (state, collected) {
        (ChildState::Running, false) => "still runs, and stays a zombie once it ends",
        (ChildState::Ended, false) => "has ended, and stays a zombie",
        (ChildState::Running, true) => "still runs, and nobody will know how it ends",
        (ChildState::Ended, true) => "has ended, and nobody knows how",
    };
    format!("{what} was dropped and not waited for: process {id}{name} {end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_names_the_process_its_program_and_what_becomes_of_it() {
        let said = |state, collected| words("Child", 7, "sleep", state, collected);
        assert_eq!(
            said(ChildState::Running, false),
            "Child was dropped and not waited for: process 7 `sleep` still runs, and stays a zombie once it ends"
        );
        assert!(said(ChildState::Ended, true).ends_with("`sleep` has ended, and nobody knows how"));
        assert!(
            words("Child", 7, "", ChildState::Ended, false)
                .ends_with("process 7 has ended, and stays a zombie")
        );
    }
}
