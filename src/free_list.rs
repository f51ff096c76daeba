//! Places that are free, by their numbers, which begin at 1: a list without a lock.
//!
//! The list lies in the places themselves, each of which keeps the next one's number; they must never be unmapped. Runs inside an
//! allocation.

use core::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

/// How often the list changed, so that a place that came back meanwhile isn't taken for the list as it was, and the first number;
/// 0: none is free.
pub(crate) struct FreeList(AtomicU64);

impl FreeList {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// The number of a place that nobody has, if one is free. `next`: where the place of a number keeps the next one.
    pub(crate) fn take<'p>(&self, next: impl Fn(u32) -> Option<&'p AtomicU32>) -> Option<u32> {
        let mut head = self.0.load(Acquire);
        while head as u32 != 0 {
            let number = head as u32;
            let after = next(number)?.load(Relaxed);
            match self.0.compare_exchange(head, changed(head, after), AcqRel, Acquire) {
                Ok(_) => return Some(number),
                Err(now) => head = now,
            }
        }
        None
    }

    /// Takes places that nobody has, as many as are free and at most `most`: the number of the first one, which keeps the next
    /// one's number, and so on to the last, which keeps 0; and how many. `next`: as in [`take`](Self::take).
    pub(crate) fn take_some<'p>(
        &self,
        most: u32,
        next: impl Fn(u32) -> Option<&'p AtomicU32>,
    ) -> Option<(u32, u32)> {
        let mut head = self.0.load(Acquire);
        while head as u32 != 0 {
            let first = head as u32;
            // What is read of places that others take meanwhile leads anywhere, and to nothing: the list has changed then.
            let (mut last, mut many) = (next(first)?, 1_u32);
            let mut after = last.load(Relaxed);
            while many < most && after != 0 {
                last = next(after)?;
                after = last.load(Relaxed);
                many = many.wrapping_add(1);
            }
            match self.0.compare_exchange(head, changed(head, after), AcqRel, Acquire) {
                Ok(_) => {
                    last.store(0, Relaxed);
                    return Some((first, many));
                }
                Err(now) => head = now,
            }
        }
        None
    }

    /// Gives the place with this number back, by its holder, or a chain of such that begins with it. `next`: where it, or the chain's
    /// last one, keeps the next one.
    pub(crate) fn give(&self, number: u32, next: &AtomicU32) {
        let mut head = self.0.load(Acquire);
        loop {
            next.store(head as u32, Relaxed);
            match self.0.compare_exchange(head, changed(head, number), AcqRel, Acquire) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
}

/// The list after one more change, with this first number.
fn changed(head: u64, first: u32) -> u64 {
    (head >> 32).wrapping_add(1) << 32 | u64::from(first)
}
