//! Whether names can be looked up here: in a fork's child a lock may be held by a thread that only its parent has.
//!
//! Looking up takes the locks of our store of names, of the crate `backtrace` and of the loader. A word tells how many
//! threads of which process are at it. A child that inherits it at a moment when somebody is doesn't look names up: it
//! would wait for ever. Others may hold the latter two locks, for reasons of their own: so a child's first look-up is tried
//! in a copy of it, which may hang. Ordinary code.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire},
};

use crate::block::fork;

/// The process in the upper half, the threads that look names up in the lower; [`LOST`]: nobody can.
static LOOKING: AtomicU64 = AtomicU64::new(0);
const COUNT: u64 = u32::MAX as u64;
const LOST: u64 = COUNT;

fn process() -> u64 {
    fork::number() << 32
}

/// While it lives its thread looks names up.
#[derive(Debug)]
pub(super) struct Looking {
    process: u64,
}

impl Looking {
    /// Nothing where nobody can. `works`: whether it can be done, asked once in a fork's child.
    pub(super) fn begin(works: impl Fn() -> bool) -> Option<Self> {
        Self::begin_in(&LOOKING, process(), works)
    }

    fn begin_in(word: &AtomicU64, process: u64, works: impl Fn() -> bool) -> Option<Self> {
        loop {
            let seen = word.load(Acquire);
            let next = if seen & !COUNT == process {
                if seen & COUNT == LOST {
                    return None;
                }
                seen.wrapping_add(1)
            } else if seen & COUNT != 0 || !works() {
                process | LOST
            } else {
                process | 1
            };
            if word.compare_exchange(seen, next, AcqRel, Acquire).is_ok() {
                return (next & COUNT != LOST).then_some(Self { process });
            }
        }
    }

    fn end_in(&self, word: &AtomicU64) {
        // A child that was forked meanwhile by this very thread is at another count.
        let ours = |seen: u64| seen & !COUNT == self.process && !matches!(seen & COUNT, 0 | LOST);
        let _ = word.fetch_update(AcqRel, Acquire, |seen| ours(seen).then(|| seen.wrapping_sub(1)));
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.end_in(&LOOKING);
    }
}

/// Whether this process has found that it can't look names up.
pub(crate) fn lost() -> bool {
    LOOKING.load(Acquire) == process() | LOST
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHILD: u64 = 5 << 32;

    fn begin(word: &AtomicU64, process: u64, works: bool) -> bool {
        // What the test's own word counts isn't ours to count down.
        Looking::begin_in(word, process, || works).map(std::mem::forget).is_some()
    }

    #[test]
    fn a_child_forked_while_its_parent_looked_names_up_does_not_and_neither_do_its_own() {
        let word = AtomicU64::new(0);
        assert!(begin(&word, 0, false), "a process that wasn't forked isn't asked");
        assert!(begin(&word, 0, false));
        assert!(!begin(&word, CHILD, true));
        assert!(!begin(&word, CHILD, true));
        assert!(!begin(&word, 6 << 32, true));
    }

    #[test]
    fn a_child_forked_while_nobody_looked_is_asked_once() {
        let word = AtomicU64::new(0);
        assert!(begin(&word, CHILD, true));
        assert!(begin(&word, CHILD, false), "known by now");
        let word = AtomicU64::new(0);
        assert!(!begin(&word, CHILD, false));
        assert!(!begin(&word, CHILD, true));
    }

    #[test]
    fn who_is_done_is_counted_out_but_for_a_child_that_could_not_begin() {
        let word = AtomicU64::new(0);
        let looking = Looking::begin_in(&word, 0, || true).unwrap();
        assert_eq!(word.load(Acquire), 1);
        looking.end_in(&word);
        assert_eq!(word.load(Acquire), 0);
        let word = AtomicU64::new(CHILD | LOST);
        looking.end_in(&word);
        assert_eq!(word.load(Acquire), CHILD | LOST);
        std::mem::forget(looking);
    }
}
