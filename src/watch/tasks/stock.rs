//! A thread's own supply of places of the registry, and of serials: what it takes and gives it needn't share with others.
//!
//! Part of a thread's slot, whose thread alone changes it; the next thread that gets the slot goes on with it. Each change is one
//! store, so a fork's child finds it whole: of a thread that was in the midst of a change, before or after it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

#[derive(Debug)]
pub(crate) struct Stock {
    /// How many places it has, and the first one's number in the list, 0: none. Each keeps the next one's.
    head: AtomicU64,
    /// The serial that was given out last.
    serial: AtomicU64,
}

/// So many serials are taken at once.
const SERIALS: u64 = 64;

impl Stock {
    /// So many places go from and to other threads at once.
    pub(super) const FEW: u32 = 32;
    /// So many it may have.
    pub(super) const MOST: u32 = 96;

    pub(crate) const fn new() -> Self {
        Self { head: AtomicU64::new(0), serial: AtomicU64::new(0) }
    }

    /// The number of a place that nobody has, if one is here. `next`: where the place of a number keeps the next one.
    #[inline]
    pub(super) fn take<'p>(&self, next: impl Fn(u32) -> Option<&'p AtomicU32>) -> Option<u32> {
        let head = self.head.load(Relaxed);
        let first = head as u32;
        let after = next(first)?.load(Relaxed); // there is none with number 0
        self.fill(after, ((head >> 32) as u32).wrapping_sub(1));
        Some(first)
    }

    /// Puts in a place that its holder has no more: how many there are now. `next`: where it keeps the next one.
    #[inline]
    pub(super) fn give(&self, number: u32, next: &AtomicU32) -> u32 {
        let head = self.head.load(Relaxed);
        next.store(head as u32, Relaxed);
        let many = ((head >> 32) as u32).wrapping_add(1);
        self.fill(number, many);
        many
    }

    /// It has so many from now on, which begin with this one.
    #[inline]
    pub(super) fn fill(&self, first: u32, many: u32) {
        self.head.store(u64::from(many) << 32 | u64::from(first), Relaxed);
    }

    /// Takes out a few: the first one's number, and where the last one of them keeps the next one.
    pub(super) fn take_few<'p>(
        &self,
        next: impl Fn(u32) -> Option<&'p AtomicU32>,
    ) -> Option<(u32, &'p AtomicU32)> {
        let head = self.head.load(Relaxed);
        let mut last = next(head as u32)?;
        for _ in 1..Self::FEW {
            last = next(last.load(Relaxed))?;
        }
        self.fill(last.load(Relaxed), ((head >> 32) as u32).wrapping_sub(Self::FEW));
        Some((head as u32, last))
    }

    /// A serial that nobody else has. `all`: the last one that any thread may give out by now.
    #[inline]
    pub(super) fn serial(&self, all: &AtomicU64) -> u64 {
        let mut last = self.serial.load(Relaxed);
        if last.is_multiple_of(SERIALS) {
            last = all.fetch_add(SERIALS, Relaxed);
        }
        self.serial.store(last.wrapping_add(1), Relaxed);
        last.wrapping_add(1)
    }
}
