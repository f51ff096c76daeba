//! Wrapped tasks, and futures that may be lost or must complete, in their places of the registry: their marks, who looks at them
//! from outside, and what is left of one that is gone.
//!
//! Marks stand in the word of the serial, so that whoever changes them changes those of the very future that was seen, or none.

use std::panic::Location;
use std::sync::atomic::{
    Ordering::{AcqRel, Acquire, Relaxed},
    fence,
};

use super::super::{heap, tokio as runtime};
use super::registry::{Kind, MARKS, Place, Registered, Role, UNKNOWN, places};

/// It may be dropped at its runtime's end.
pub(crate) const DAEMON: u64 = 1;
/// It is told whenever it is dropped before its end.
pub(crate) const MUST_COMPLETE: u64 = 2;
/// From which bit on the number of the closing runtime stands that has found it pending; 0: none has.
const CLOSING: u32 = 2;
/// The highest such number.
pub(crate) const LAST_CLOSING: u64 = (1 << (MARKS - CLOSING)) - 1;

fn found_by(whose: u64) -> u64 {
    whose >> CLOSING & LAST_CLOSING
}

impl Registered {
    /// Marks the future, by its holder; one that isn't registered is from now on.
    pub(crate) fn mark<F>(&mut self, mark: u64, made: &'static Location<'static>) {
        let marked = heap::trace_here();
        if self.place().is_none() {
            *self = Self::new::<F>(Role::Future, made);
        }
        if let Some(place) = self.place() {
            place.marked.store(marked, Relaxed);
            place.whose.fetch_or(mark, AcqRel);
        }
    }
}

/// A task, or a marked future, that has been seen in its place and may be gone by now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spotted {
    place: &'static Place,
    whose: u64,
    tokio: u64,
    cell: u64,
}

impl Spotted {
    fn new(place: &'static Place) -> Option<Self> {
        let whose = place.whose.load(Acquire);
        let is_marked = whose & (DAEMON | MUST_COMPLETE) != 0;
        if whose == 0 || !is_marked && place.role.load(Relaxed) != Role::Task as u32 {
            return None;
        }
        let (tokio, cell) = (place.tokio.load(Relaxed), place.cell.load(Acquire));
        let done = place.done.load(Relaxed);
        fence(Acquire);
        (!done && place.serial() == whose >> MARKS).then_some(Self { place, whose, tokio, cell })
    }

    /// Of all wrapped futures its own.
    pub(crate) fn serial(&self) -> u64 {
        self.whose >> MARKS
    }

    pub(crate) fn is_daemon(&self) -> bool {
        self.whose & DAEMON != 0
    }

    /// Its id, 0: not known.
    pub(crate) fn id(&self) -> u64 {
        let id = id(self.tokio, self.cell);
        // Another task may have its cell by now, as long as it is there.
        if self.place.serial() == self.serial() { id } else { 0 }
    }

    /// Whether it was spawned by us.
    pub(crate) fn is_spawned(&self) -> bool {
        cell_in(self.cell) != 0
    }

    /// Its cell; nothing where it wasn't spawned by us for this owner, or one whose number ends as this one's does.
    pub(crate) fn cell_of(&self, owner: u64) -> Option<usize> {
        (self.is_spawned() && self.cell >> 48 == owner & 0xffff).then(|| cell_in(self.cell))
    }

    /// Changes its marks, unless it is gone: whether it wasn't.
    fn change(&self, to: impl Fn(u64) -> u64) -> bool {
        let same = |whose: u64| whose >> MARKS == self.whose >> MARKS;
        let changed = |whose: u64| same(whose).then(|| to(whose));
        self.place.whose.fetch_update(AcqRel, Acquire, changed).is_ok()
    }

    /// As if it had been marked as a daemon.
    pub(crate) fn becomes_daemon(&self) {
        self.change(|whose| whose | DAEMON);
    }

    /// The runtime that closes under this number has found it pending: whether it hears of it when it is gone.
    pub(crate) fn found_by(&self, closing: u64) -> bool {
        let others = !(LAST_CLOSING << CLOSING);
        self.change(|whose| whose & others | closing << CLOSING)
    }
}

/// The id that these words of a place tell, 0: none.
fn id(tokio: u64, cell: u64) -> u64 {
    if tokio & UNKNOWN == 0 { tokio } else { runtime::id_in(cell_in(cell)).unwrap_or(0) }
}

/// All tasks and marked futures that haven't ended.
pub(crate) fn spotted() -> impl Iterator<Item = Spotted> {
    places().filter_map(Spotted::new)
}

/// A future that is no more, in a place that is nobody else's yet.
pub(crate) struct Gone {
    place: &'static Place,
    whose: u64,
    /// It had given its output.
    pub done: bool,
}

impl Gone {
    /// Takes the future, which is no more, from its place: what is marked from here on isn't this one. Nothing where it had ended and
    /// nobody asked for it.
    #[inline]
    pub(super) fn take(place: &'static Place) -> Option<Self> {
        let whose = place.whose.swap(0, AcqRel);
        let done = place.done.load(Relaxed);
        (!done || found_by(whose) != 0).then_some(Self { place, whose, done })
    }

    pub(crate) fn has(&self, mark: u64) -> bool {
        self.whose & mark != 0
    }

    /// The number of the closing runtime that has found it pending; 0: none has.
    pub(crate) fn found_by(&self) -> u64 {
        found_by(self.whose)
    }

    /// What is dropped after a panic isn't lost: the panic is the news.
    pub(crate) fn has_panicked(&self) -> bool {
        self.place.panicked.load(Relaxed)
    }

    /// Its cell where it was spawned by us, else 0.
    pub(crate) fn cell(&self) -> usize {
        cell_in(self.place.cell.load(Acquire))
    }

    /// Its id, 0: not known.
    pub(crate) fn id(&self) -> u64 {
        id(self.place.tokio.load(Relaxed), self.place.cell.load(Acquire))
    }

    pub(crate) fn name(&self) -> &'static str {
        // SAFETY: the place is this future's, so the address of a `&'static Kind`.
        unsafe { ((*(self.place.kind.load(Relaxed) as *const Kind)).name)() }
    }

    pub(crate) fn made(&self) -> &'static Location<'static> {
        // SAFETY: the place is this future's, so the address of a `&'static Location`.
        unsafe { &*(self.place.made.load(Relaxed) as *const Location<'static>) }
    }

    /// The stack that marked it, by its trace; 0: none.
    pub(crate) fn marked(&self) -> u32 {
        self.place.marked.load(Relaxed)
    }
}

/// A cell's address below the lowest 16 bits of its owner.
pub(super) fn cell_word(cell: usize, owner: u64) -> Option<u64> {
    let cell = cell as u64;
    (cell != 0 && cell & 1 == 0 && cell >> 48 == 0).then_some(owner << 48 | cell)
}

/// The address in a `cell` word, 0 where there is none.
pub(super) fn cell_in(word: u64) -> usize {
    if word & 1 != 0 { 0 } else { (word & ((1 << 48) - 1)) as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Mine;

    #[test]
    fn a_task_that_was_spotted_is_marked_while_it_goes_on_and_what_follows_in_its_place_never() {
        let task = Registered::new::<Mine>(Role::Task, Location::caller());
        assert!(task.ticket().unwrap().lies_at(4096, 0x1_0007));
        let place = task.place().unwrap();
        let spotted = spotted().find(|spotted| spotted.serial() == place.serial()).unwrap();
        assert_eq!((spotted.cell_of(0x1_0007), spotted.cell_of(8)), (Some(4096), None));
        spotted.becomes_daemon();
        assert!(spotted.found_by(3) && spotted.found_by(LAST_CLOSING));
        let again = Spotted::new(place).unwrap();
        assert_eq!((again.is_daemon(), found_by(again.whose)), (true, LAST_CLOSING));
        assert_eq!(place.serial(), spotted.serial());
        place.mark_done(); // it is told to nobody
        drop(task);
        assert!(!spotted.found_by(3), "it is gone");
        let others: Vec<_> =
            (0..64).map(|_| Registered::new::<Mine>(Role::Task, Location::caller())).collect();
        assert!(!spotted.found_by(3));
        assert!(others.iter().all(|r| r.place().unwrap().whose.load(Relaxed) & ((1 << MARKS) - 1) == 0));
    }
}
