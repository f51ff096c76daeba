//! Each fault is told once; from then on it is counted, and the count told at exit. No heap, no lock: a fixed table.

use core::cell::UnsafeCell;
use core::fmt::{Display, Write};
use core::sync::atomic::{
    AtomicU8, AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

use super::buffer::Buffer;
use crate::sys;

/// Different faults that are told apart; what comes later is told each time.
const PLACES: usize = 256;
/// Bytes of a fault's name that are kept.
const NAME: usize = 240;

struct Place {
    /// 0: free.
    key: AtomicU64,
    /// The process that took it: a fork's child doesn't tell its parent's counts.
    process: AtomicU32,
    count: AtomicU32,
    /// Length of the name; 0: not written yet.
    length: AtomicU8,
    name: UnsafeCell<[u8; NAME]>,
}

// SAFETY: `name` is written by the one thread that took the place, before it publishes `length`, and never again; others
// read it only after they saw a length.
unsafe impl Sync for Place {}

/// The faults that were told.
pub(crate) struct Told([Place; PLACES]);

/// Those of this process.
pub(crate) static TOLD: Told = Told::new();

impl Told {
    pub(crate) const fn new() -> Self {
        Self(
            [const {
                Place {
                    key: AtomicU64::new(0),
                    process: AtomicU32::new(0),
                    count: AtomicU32::new(0),
                    length: AtomicU8::new(0),
                    name: UnsafeCell::new([0; NAME]),
                }
            }; PLACES],
        )
    }

    /// Notes a fault. Whether it is the first under this key, and so to be told; `name` is what its count is told with.
    pub(crate) fn first(&self, key: u64, name: &dyn Display) -> bool {
        let key = of_this_process(key);
        for place in self.from(key) {
            let taken = match place.key.compare_exchange(0, key, AcqRel, Acquire) {
                Ok(_) => {
                    // SAFETY: the exchange made the place ours, and nobody reads the name before the length is published.
                    let memory = unsafe { &mut *place.name.get() };
                    let mut text = Buffer::new(memory);
                    let _ = write!(text, "{name}"); // cut where it is too long
                    place.process.store(sys::process_id(), Relaxed);
                    place.length.store(u8::try_from(text.bytes().len()).unwrap_or(0), Release);
                    place.count.store(1, Release);
                    return true;
                }
                Err(other) => other == key,
            };
            if taken {
                let _ = place.count.fetch_update(Relaxed, Relaxed, |count| count.checked_add(1));
                return false;
            }
        }
        true
    }

    /// How often a fault was noted.
    pub(crate) fn count(&self, key: u64) -> u32 {
        let key = of_this_process(key);
        self.from(key)
            .map(|place| (place.key.load(Acquire), place))
            .take_while(|(other, _)| *other != 0)
            .find(|(other, _)| *other == key)
            .map_or(0, |(_, place)| place.count.load(Acquire))
    }

    /// All places, those first where this key belongs.
    fn from(&self, key: u64) -> impl Iterator<Item = &Place> {
        let start = usize::try_from(key).unwrap_or(0) % PLACES;
        self.0.iter().cycle().skip(start).take(PLACES)
    }

    /// Calls `tell` with the name and the count of each fault that came more than once.
    pub(crate) fn each(&self, tell: &mut dyn FnMut(&str, u32)) {
        for place in &self.0 {
            let count = place.count.load(Acquire);
            let length = usize::from(place.length.load(Acquire));
            if count < 2 || length == 0 || place.process.load(Relaxed) != sys::process_id() {
                continue;
            }
            // SAFETY: a length was published, so the name is written and stays.
            let name = unsafe { &*place.name.get() };
            let name = name.get(..length).unwrap_or_default();
            // Cut in the middle of a letter: up to there.
            let name = match core::str::from_utf8(name) {
                Ok(name) => name,
                Err(cut) => {
                    core::str::from_utf8(name.get(..cut.valid_up_to()).unwrap_or_default()).unwrap_or("")
                }
            };
            tell(name, count);
        }
    }
}

fn of_this_process(key: u64) -> u64 {
    (key ^ u64::from(sys::process_id()).wrapping_mul(0x9e37_79b9_7f4a_7c15)).max(1)
}

/// A key from a text, for [`Told::first`].
pub(crate) fn key_of(text: &str) -> u64 {
    key(text.bytes().map(u64::from))
}

/// A key from words, for [`Told::first`].
pub(crate) fn key(words: impl IntoIterator<Item = u64>) -> u64 {
    // FNV-1a over words, with a last mix so that the low bits differ too.
    let hash = words.into_iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, word| {
        (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
    });
    hash ^ hash.wrapping_shr(32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(told: &Told, name: &str) -> Option<u32> {
        let mut found = None;
        told.each(&mut |other, count| {
            if other == name {
                found = Some(count);
            }
        });
        found
    }

    #[test]
    fn a_fault_is_told_once_and_then_counted() {
        let told = Box::new(Told::new());
        let key = key([1, 2, 3]);
        assert_eq!(told.count(key), 0);
        assert!(told.first(key, &"a fault of this test"));
        assert_eq!(told.count(key), 1);
        assert_eq!(count(&told, "a fault of this test"), None, "once is no repetition");
        assert!(!told.first(key, &"not looked at"));
        assert!(!told.first(key, &"not looked at"));
        assert_eq!(count(&told, "a fault of this test"), Some(3));
    }

    #[test]
    fn of_threads_that_come_at_once_one_tells() {
        let key = key([4, 5]);
        let (table, told) = (Box::new(Told::new()), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        told.fetch_add(u32::from(table.first(key, &"a shared fault")), Relaxed);
                    }
                });
            }
        });
        assert_eq!(told.into_inner(), 1);
        assert!(count(&table, "a shared fault").is_some_and(|count| count > 700));
    }

    #[test]
    fn words_in_another_order_are_another_key() {
        assert_ne!(key([1, 2]), key([2, 1]));
        assert_ne!(key([0]), key([0, 0]));
    }
}
