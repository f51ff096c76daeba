//! Places of one kind that are handed out one by one, used again, and never given back, so that anybody may read one at any time.
//!
//! No lock: places are taken and given on any thread, and a fork's child finds them as whole as they were.

use std::mem::MaybeUninit;
use std::sync::atomic::{
    AtomicPtr, AtomicU32, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed},
};

use super::super::heap;
use super::stock::Stock;
use crate::free_list::FreeList;

const CHUNK: usize = 256;
const CHUNKS: usize = 4096;

/// A cache line or more, so that holders on different threads don't meet.
#[repr(align(64))]
struct Node<T> {
    place: T,
    next_free: AtomicU32,
}

/// At most about a million places.
pub(super) struct Slab<T: 'static> {
    chunks: [AtomicPtr<[Node<T>; CHUNK]>; CHUNKS],
    /// Places that were ever used.
    used: AtomicUsize,
    /// By their numbers + 1.
    free: FreeList,
    /// A place as it is before its first use, by its number.
    empty: fn(u32) -> T,
}

impl<T: Sync> Slab<T> {
    pub(super) const fn new(empty: fn(u32) -> T) -> Self {
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

    fn listed(&self, listed: u32) -> Option<&'static Node<T>> {
        self.node((listed as usize).checked_sub(1)?)
    }

    fn next_free(&self, listed: u32) -> Option<&'static AtomicU32> {
        Some(&self.listed(listed)?.next_free)
    }

    /// A place that nobody has; nothing where all are taken.
    pub(super) fn take(&self) -> Option<&'static T> {
        match self.free.take(|listed| self.next_free(listed)) {
            Some(listed) => Some(&self.listed(listed)?.place),
            None => self.take_another(),
        }
    }

    /// As [`take`](Self::take), from this thread's own stock, which holds places of this slab alone.
    #[inline]
    pub(super) fn take_from(&self, stock: &Stock) -> Option<&'static T> {
        match stock.take(|listed| self.next_free(listed)) {
            Some(listed) => Some(&self.listed(listed)?.place),
            None => self.stock_up(stock),
        }
    }

    /// The stock is empty.
    #[cold]
    #[inline(never)]
    fn stock_up(&self, stock: &Stock) -> Option<&'static T> {
        let Some((first, many)) = self.free.take_some(Stock::FEW, |listed| self.next_free(listed)) else {
            return self.take_another();
        };
        let node = self.listed(first)?;
        stock.fill(node.next_free.load(Relaxed), many - 1);
        Some(&node.place)
    }

    /// One that nobody had before.
    #[cold]
    #[inline(never)]
    fn take_another(&self) -> Option<&'static T> {
        let number = self.used.fetch_add(1, Relaxed);
        if number >= CHUNK * CHUNKS {
            self.used.store(CHUNK * CHUNKS, Relaxed);
            return None;
        }
        let chunk = &self.chunks[number / CHUNK];
        if chunk.load(Acquire).is_null() {
            let _ours = heap::ours();
            // Written where it lies: on the stack there may be no room for it.
            let mut fresh: Box<[MaybeUninit<Node<T>>]> = Box::new_uninit_slice(CHUNK);
            for (n, node) in (number - number % CHUNK..).zip(&mut fresh) {
                node.write(Node { place: (self.empty)(n as u32), next_free: AtomicU32::new(0) });
            }
            let fresh = Box::into_raw(fresh).cast::<[Node<T>; CHUNK]>();
            if chunk.compare_exchange(std::ptr::null_mut(), fresh, AcqRel, Acquire).is_err() {
                // SAFETY: a box of CHUNK nodes, each of which is written, of which nobody else knows: it was never published.
                drop(unsafe { Box::from_raw(fresh) });
            }
        }
        Some(&self.node(number)?.place)
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

    /// As [`give`](Self::give), into this thread's own stock.
    #[inline]
    pub(super) fn give_to(&self, stock: &Stock, number: u32) {
        let Some(node) = self.node(number as usize) else { return };
        if stock.give(number + 1, &node.next_free) > Stock::MOST {
            self.share_out(stock);
        }
    }

    /// The stock has more than it may: some are for other threads.
    #[cold]
    #[inline(never)]
    fn share_out(&self, stock: &Stock) {
        if let Some((first, last)) = stock.take_few(|listed| self.next_free(listed)) {
            self.free.give(first, last);
        }
    }

    /// Every place that was ever used.
    pub(super) fn each(&self) -> impl Iterator<Item = &'static T> + '_ {
        let used = self.used.load(Acquire).min(CHUNK * CHUNKS);
        (0..used).filter_map(|n| Some(&self.node(n)?.place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Large(u32, [AtomicU32; 1024]);
    fn large(number: u32) -> Large {
        Large(number, [const { AtomicU32::new(7) }; 1024])
    }

    #[test]
    fn places_are_made_on_a_small_stack_and_the_one_that_was_given_back_last_comes_first() {
        static LARGE: Slab<Large> = Slab::new(large);
        let small = std::thread::Builder::new().stack_size(64 << 10);
        let taken = small.spawn(|| {
            let (first, second) = (LARGE.take().unwrap(), LARGE.take().unwrap());
            LARGE.give(first.0);
            let again = LARGE.take().unwrap();
            assert!(std::ptr::eq(again, first) && again.1.iter().all(|word| word.load(Relaxed) == 7));
            (first.0, second.0)
        });
        assert_eq!((taken.unwrap().join().unwrap(), LARGE.each().count()), ((0, 1), 2));
    }

    #[test]
    fn a_threads_stock_is_used_first_and_what_is_too_much_of_it_goes_to_other_threads() {
        static SLAB: Slab<u32> = Slab::new(|number| number);
        let (here, there) = (Stock::new(), Stock::new());
        let many = Stock::MOST + 1;
        let all: Vec<_> = (0..many).map(|_| *SLAB.take_from(&here).unwrap()).collect();
        assert_eq!(all, (0..many).collect::<Vec<_>>());
        all.iter().for_each(|&number| SLAB.give_to(&here, number));
        let few: Vec<_> = (0..Stock::FEW).map(|_| *SLAB.take_from(&there).unwrap()).collect();
        assert_eq!(few, all.iter().rev().take(Stock::FEW as usize).copied().collect::<Vec<_>>());
        assert_eq!(SLAB.take_from(&there), Some(&many), "the stock here is nobody else's");
        let rest: Vec<_> = (0..many - Stock::FEW).map(|_| *SLAB.take_from(&here).unwrap()).collect();
        assert_eq!(rest, all.iter().rev().skip(Stock::FEW as usize).copied().collect::<Vec<_>>());
        assert_eq!(SLAB.take_from(&here), Some(&(many + 1)));
    }

    #[test]
    fn many_threads_take_from_their_stocks_and_give_to_others() {
        static NUMBERS: Slab<(u32, AtomicU32)> = Slab::new(|number| (number, AtomicU32::new(0)));
        let give = |stock: &Stock, place: &(u32, AtomicU32)| {
            assert_eq!(place.1.swap(0, Relaxed), 1, "nobody else has it");
            NUMBERS.give_to(stock, place.0);
        };
        std::thread::scope(|scope| {
            let (to, from) = std::sync::mpsc::channel();
            for _ in 0..3 {
                let to = to.clone();
                scope.spawn(move || {
                    let stock = Stock::new();
                    for n in 0..20_000 {
                        let place = NUMBERS.take_from(&stock).unwrap();
                        assert_eq!(place.1.swap(1, Relaxed), 0, "nobody else has it");
                        if n % 3 == 0 {
                            give(&stock, place);
                        } else {
                            to.send(place).unwrap();
                        }
                    }
                });
            }
            drop(to);
            let stock = Stock::new();
            from.into_iter().for_each(|place| give(&stock, place));
        });
        let used = NUMBERS.each().count();
        let rest = Stock::new();
        let mut seen: Vec<u32> = (0..used).map(|_| NUMBERS.take_from(&rest).unwrap().0).collect();
        let all = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), all, "none stands in the list twice");
    }
}
