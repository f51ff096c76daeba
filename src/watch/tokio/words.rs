//! The two places of tokio's thread-local that are read from other threads, and the one that is written.
//!
//! **This file alone touches another thread's variables.** They are plain `Cell`s of another crate: reading them while their
//! thread writes, and storing a byte into one, lies outside the language's memory model. What makes it work in practice:
//! each is one aligned word or a single byte, which the hardware reads and writes whole; the loads and the store are atomic,
//! so the compiler neither splits nor invents them; a value that is out of date only makes a sample say less; the
//! byte's owner tolerates any value (it counts down from it to zero), and a store that falls between the owner's read and
//! write is lost without harm. The places are measured by probe tasks (`probe`), never assumed, and used only while the
//! thread's slot is held, so the memory is mapped. `coop=off` switches the store off.

use std::hash::{Hash, Hasher};
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

use super::super::heap::{self, ThreadInfo};
use super::proof::Seen;
use crate::thread::Held;

/// Distances from the thread pointer, as wrapping additions. Never 0: the thread pointer's own word is not tokio's.
static ID: AtomicUsize = AtomicUsize::new(0);
static BUDGET: AtomicUsize = AtomicUsize::new(0);

/// Makes known where the words lie. Only what several probes agreed on.
pub(crate) fn publish(id: usize, budget: Option<usize>) {
    BUDGET.store(budget.unwrap_or(0), Release);
    ID.store(id, Release);
}

/// Whether the id's word was found, and the budget's byte.
pub(crate) fn found() -> (bool, bool) {
    (ID.load(Acquire) != 0, BUDGET.load(Acquire) != 0)
}

/// What the held thread polls now; nothing where the words weren't found.
pub(crate) fn read(held: &Held) -> Option<Seen> {
    let (id, budget) = (ID.load(Acquire), BUDGET.load(Acquire));
    if id == 0 || budget == 0 || held.info.thread_pointer == 0 {
        return None;
    }
    let tp = held.info.thread_pointer;
    // SAFETY: `id` and `budget` lie in the static thread-local block of the executable, which every thread has at the same
    // distances from its thread pointer; the held slot keeps the thread, and so the block, from going. The word
    // is 8-aligned (`probe` looks at aligned words only). For the race with the owner see the head of this file.
    unsafe {
        let id = AtomicU64::from_ptr(tp.wrapping_add(id) as *mut u64).load(Relaxed);
        let some = AtomicU8::from_ptr(tp.wrapping_add(budget).wrapping_sub(1) as *mut u8).load(Relaxed);
        let left = AtomicU8::from_ptr(tp.wrapping_add(budget) as *mut u8).load(Relaxed);
        Some(Seen { id, budget: (some == 1).then_some(left) })
    }
}

/// What a thread polls now; nothing where it has ended, too.
pub(crate) fn of(thread: &ThreadInfo) -> Option<Seen> {
    read(&heap::hold(thread)?)
}

/// The budget of the poll that this thread is in; nothing in none, `Err` where the words weren't found.
pub(crate) fn own_budget() -> Result<Option<u8>, ()> {
    #[cfg(native)]
    {
        let budget = BUDGET.load(Acquire);
        if budget != 0 {
            let at = crate::sys::thread_pointer().wrapping_add(budget);
            // SAFETY: two bytes of this thread's own static block, at places measured on other threads; a byte that the watchdog
            // stores meanwhile is whole (see the head of this file).
            let (some, left) = unsafe {
                let some = AtomicU8::from_ptr(at.wrapping_sub(1) as *mut u8).load(Relaxed);
                (some, AtomicU8::from_ptr(at as *mut u8).load(Relaxed))
            };
            return Ok((some == 1).then_some(left));
        }
    }
    Err(())
}

/// Raises the budget of the poll that the held thread is in, from what was `seen` to `to`: whether the same task was still
/// there right after, with the raised value. Nothing where it is in another poll by now, or went on in it.
pub(crate) fn raise(held: &Held, seen: Seen, to: u8) -> Option<bool> {
    // Looked at again right before: the narrower the gap, the fewer polls that are hit by mistake (to no harm).
    if read(held) != Some(seen) {
        return None;
    }
    let at = held.info.thread_pointer.wrapping_add(BUDGET.load(Acquire)) as *mut u8;
    // SAFETY: as in `read`; a byte store.
    unsafe { AtomicU8::from_ptr(at).store(to, Relaxed) };
    let now = read(held)?;
    Some(now.id == seen.id && now.budget.is_some_and(|left| left > super::proof::FULL))
}

/// The id of the task that this thread polls, 0: none. May be called inside an allocation: one load.
pub(crate) fn own_id() -> u64 {
    #[cfg(native)]
    {
        let id = ID.load(Acquire);
        if id != 0 {
            // SAFETY: this thread's own static block, at an aligned place measured on other threads; nobody else writes it.
            return unsafe { (crate::sys::thread_pointer().wrapping_add(id) as *const u64).read_volatile() };
        }
    }
    asked_id()
}

/// The same, as tokio tells it: a plain cell (law 1's one exception).
fn asked_id() -> u64 {
    ::tokio::task::try_id().map_or(0, number)
}

/// The number of an id. Doesn't allocate.
#[inline]
pub(crate) fn number(id: ::tokio::task::Id) -> u64 {
    if HASHED_BY_NUMBER.load(Relaxed) { hashed_number(id) } else { shown_number(id) }
}

/// Ids are hashed by their numbers, as one that was shown told.
static HASHED_BY_NUMBER: AtomicBool = AtomicBool::new(false);

/// What an id gives to a hasher: a move, where writing it out is some forty times slower.
#[inline]
fn hashed_number(id: ::tokio::task::Id) -> u64 {
    struct Word(u64);
    impl Hasher for Word {
        fn write(&mut self, _: &[u8]) {}
        #[inline]
        fn write_u64(&mut self, word: u64) {
            self.0 = word;
        }
        fn finish(&self) -> u64 {
            self.0
        }
    }
    let mut word = Word(0);
    id.hash(&mut word);
    word.0
}

/// The number of an id as its `Display` gives it away, which is what tokio promises.
#[cold]
#[inline(never)]
fn shown_number(id: ::tokio::task::Id) -> u64 {
    use std::fmt::Write;
    struct Digits(u64);
    impl Write for Digits {
        fn write_str(&mut self, s: &str) -> std::fmt::Result {
            for digit in s.bytes() {
                self.0 = self.0.wrapping_mul(10).wrapping_add(u64::from(digit.wrapping_sub(b'0')));
            }
            Ok(())
        }
    }
    let mut digits = Digits(0);
    let _ = write!(digits, "{id}");
    if hashed_number(id) == digits.0 {
        HASHED_BY_NUMBER.store(true, Relaxed);
    }
    digits.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_the_number_that_it_shows_before_and_after_one_was_shown() {
        let runtime = ::tokio::runtime::Builder::new_current_thread().build().unwrap();
        for _ in 0..3 {
            let task = runtime.spawn(async {});
            assert_eq!(number(task.id()), task.id().to_string().parse::<u64>().unwrap());
            assert_eq!(shown_number(task.id()), number(task.id()));
        }
    }
}
