//! From a task's id to what its hooks know of it: no lock, since every poll looks here, and a fork's child may too.
//!
//! Ids are numbers in a row, so those that are alive together seldom meet; where they do, an entry lies at one of a few other
//! places that its id tells.

use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

/// What is known of a task, in the low bits of its entry; above them its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Its place in the registry, by its number.
    Row(u32),
    /// A wrapper tells all of it.
    Wrapped,
    /// It is ours, and waits for ever.
    Ours,
    /// It is ours, and ends in its first poll.
    OursOnce,
}

const BITS: u32 = 21;
const MASK: u64 = (1 << BITS) - 1;
const WRAPPED: u64 = MASK;
const OURS: u64 = MASK - 1;
const OURS_ONCE: u64 = MASK - 2;

impl Entry {
    fn word(self, id: u64) -> Option<u64> {
        let low = match self {
            Self::Row(number) => u64::from(number) + 1,
            Self::Wrapped => WRAPPED,
            Self::Ours => OURS,
            Self::OursOnce => OURS_ONCE,
        };
        (id != 0 && id >> (64 - BITS) == 0 && low <= MASK).then_some(id << BITS | low)
    }

    fn of(word: u64) -> Self {
        match word & MASK {
            WRAPPED => Self::Wrapped,
            OURS => Self::Ours,
            OURS_ONCE => Self::OursOnce,
            number => Self::Row((number - 1) as u32),
        }
    }
}

/// As many as the registry has places; 8 MiB, touched as used.
const SIZE: usize = 1 << 20;
/// At how many places an entry may lie.
const PLACES: usize = 16;

pub(super) struct Index {
    entries: [AtomicU64; SIZE],
    /// The furthest place at which an entry ever lay: one or two, as a rule, so a look-up that finds nothing is short.
    furthest: AtomicUsize,
}

fn place(id: u64, n: usize) -> usize {
    // The first is its own; the others are all over.
    let other = id.wrapping_add(n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44;
    (if n == 0 { id } else { other }) as usize % SIZE
}

impl Index {
    pub(super) const fn new() -> Self {
        Self { entries: [const { AtomicU64::new(0) }; SIZE], furthest: AtomicUsize::new(0) }
    }

    /// Notes what is known of a task, once for each id; false where there is no room.
    pub(super) fn insert(&self, id: u64, entry: Entry) -> bool {
        let Some(word) = entry.word(id) else { return false };
        for n in 0..PLACES {
            let at = &self.entries[place(id, n)];
            if at.load(Relaxed) != 0 {
                continue;
            }
            // Before the entry can be found there.
            if self.furthest.load(Relaxed) < n {
                self.furthest.fetch_max(n, AcqRel);
            }
            if at.compare_exchange(0, word, Release, Relaxed).is_ok() {
                return true;
            }
        }
        false
    }

    fn at(&self, id: u64) -> Option<(&AtomicU64, u64)> {
        let furthest = self.furthest.load(Acquire);
        let places = (0..=furthest).map(|n| &self.entries[place(id, n)]);
        places.map(|at| (at, at.load(Acquire))).find(|(_, word)| word >> BITS == id && *word != 0)
    }

    /// What is known of a task.
    #[inline]
    pub(super) fn find(&self, id: u64) -> Option<Entry> {
        self.at(id).map(|(_, word)| Entry::of(word))
    }

    /// The same, and forgets it.
    pub(super) fn take(&self, id: u64) -> Option<Entry> {
        let (at, word) = self.at(id)?;
        // Whoever takes it first has it.
        at.compare_exchange(word, 0, AcqRel, Relaxed).ok().map(Entry::of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_a_task_is_found_until_it_is_taken() {
        static INDEX: Index = Index::new();
        let size = SIZE as u64;
        // Seven that begin at the same place.
        let ids: Vec<u64> = (1..8).map(|n| 5 + n * size).collect();
        for (n, id) in ids.iter().enumerate() {
            assert_eq!(INDEX.find(*id), None);
            assert!(INDEX.insert(*id, Entry::Row(n as u32)));
        }
        for entry in [Entry::Wrapped, Entry::Ours, Entry::OursOnce, Entry::Row(0), Entry::Row((1 << 20) - 1)]
        {
            assert!(INDEX.insert(77, entry));
            assert_eq!((INDEX.find(77), INDEX.take(77), INDEX.take(77)), (Some(entry), Some(entry), None));
        }
        assert_eq!(INDEX.take(ids[0]), Some(Entry::Row(0)));
        // Those that lay further stay where they are.
        assert!(ids.iter().enumerate().skip(1).all(|(n, id)| INDEX.find(*id) == Some(Entry::Row(n as u32))));
        assert!(!INDEX.insert(0, Entry::Wrapped) && INDEX.find(0).is_none());
    }

    #[test]
    fn a_full_index_says_so() {
        static INDEX: Index = Index::new();
        let all = (1..=SIZE as u64 + 64).filter(|id| INDEX.insert(*id, Entry::Row(1))).count();
        assert_eq!(all, SIZE);
        assert!((1..=SIZE as u64).all(|id| INDEX.find(id).is_some()));
    }

    #[test]
    fn threads_note_and_take_their_own() {
        static INDEX: Index = Index::new();
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                scope.spawn(move || {
                    for round in 0..2000u64 {
                        // All begin at a few places.
                        let id = 1 + thread + 4 * round % 8 + (round + 1) * SIZE as u64;
                        assert!(INDEX.insert(id, Entry::Row(thread as u32)));
                        assert_eq!(INDEX.find(id), Some(Entry::Row(thread as u32)));
                        assert_eq!(INDEX.take(id), Some(Entry::Row(thread as u32)));
                    }
                });
            }
        });
    }
}
