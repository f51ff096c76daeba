//! Places of one kind that are handed out one by one, used again, and never given back, so that anybody may read one at any time.
//!
//! No lock: places are taken and given on any thread, and a fork's child finds them as whole as they were.

use std::sync::atomic::{
    AtomicPtr, AtomicU32, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed},
};

use super::super::heap;
use crate::free_list::FreeList;

const CHUNK: usize = 256;
const CHUNKS: usize = 4096;

struct Node<T> {
    next_free: AtomicU32,
    place: T,
}

/// At most about a million places.
pub(super) struct Slab<T: 'static> {
    chunks: [AtomicPtr<[Node<T>; CHUNK]>; CHUNKS],
    /// Places that were ever used.
    used: AtomicUsize,
    /// By their numbers + 1.
    free: FreeList,
    /// A place as it is before its first use.
    empty: fn() -> T,
}

impl<T: Sync> Slab<T> {
    pub(super) const fn new(empty: fn() -> T) -> Self {
        Self {
            chunks: [const { AtomicPtr::new(std::ptr::null_mut()) }; CHUNKS],
            used: AtomicUsize::new(0),
            free: FreeList::new(),
            empty,
        }
    }

    fn node(&self, number: usize) -> Option<&'static Node<T>> {
        let chunk = self.chunks.get(number / CHUNK)?.load(Acquire);
        // SAFETY: null, or a chunk that was published and is never given back.
        unsafe { chunk.as_ref() }?.get(number % CHUNK)
    }

    /// A place that nobody has, and its number; nothing where all are taken.
    pub(super) fn take(&self) -> Option<(u32, &'static T)> {
        if let Some(listed) = self.free.take(|listed| Some(&self.node(listed as usize - 1)?.next_free)) {
            return Some((listed - 1, &self.node(listed as usize - 1)?.place));
        }
        let number = self.used.fetch_add(1, Relaxed);
        if number >= CHUNK * CHUNKS {
            self.used.store(CHUNK * CHUNKS, Relaxed);
            return None;
        }
        let chunk = &self.chunks[number / CHUNK];
        if chunk.load(Acquire).is_null() {
            let _ours = heap::ours();
            let node = |_| Node { next_free: AtomicU32::new(0), place: (self.empty)() };
            let fresh = Box::into_raw(Box::new(std::array::from_fn(node)));
            if chunk.compare_exchange(std::ptr::null_mut(), fresh, AcqRel, Acquire).is_err() {
                // SAFETY: ours was never published.
                drop(unsafe { Box::from_raw(fresh) });
            }
        }
        Some((number as u32, &self.node(number)?.place))
    }

    /// The place with this number, if it was ever used.
    #[cfg(all(feature = "tokio", tokio_unstable))]
    pub(super) fn get(&self, number: u32) -> Option<&'static T> {
        Some(&self.node(number as usize)?.place)
    }

    /// Gives the place with this number to whoever takes one next. Its holder's alone.
    pub(super) fn give(&self, number: u32) {
        if let Some(node) = self.node(number as usize) {
            self.free.give(number + 1, &node.next_free);
        }
    }

    /// Every place that was ever used.
    pub(super) fn each(&self) -> impl Iterator<Item = &'static T> + '_ {
        let used = self.used.load(Acquire).min(CHUNK * CHUNKS);
        (0..used).filter_map(|n| Some(&self.node(n)?.place))
    }
}
