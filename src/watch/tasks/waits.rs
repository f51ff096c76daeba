//! Where a wrapped task waits: the stacks at which its waker was kept.
//!
//! A wrapped future is polled with a waker of ours. What will wake it clones that waker during the poll, at the innermost end of
//! the chain of `.await`s; a clone keeps that chain's stack until it is dropped or used. Each has a place of its own, in the
//! future's place in the registry for the first ones, which outlives it.

use std::cell::UnsafeCell;
use std::collections::HashMap;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};
use std::task::{Context, RawWaker, RawWakerVTable, Waker};

use super::super::heap;
use super::registry::{self, Place};
use super::slab::Slab;

/// In a wait's `holders`: nobody has it.
const FREE: u32 = 0;
/// Its first holder has it; each further one adds 1. At 1 less its last one empties it, and nobody else may take it yet.
const HELD: u32 = 2;
/// `number` of a wait that is part of a place in the registry.
const INLINE: u32 = u32::MAX;

/// A waker that something keeps.
#[derive(Debug)]
pub(super) struct Wait {
    holders: AtomicU32,
    /// The stack at which it was kept, by its trace; 0: not known.
    stack: AtomicU32,
    /// Whose it is; 0: nobody's yet, or no more.
    serial: AtomicU64,
    /// The executor's waker. Written by who took the place, read by holders, moved out by the last.
    inner: UnsafeCell<MaybeUninit<Waker>>,
    /// Where it stands in [`MORE`].
    number: u32,
}

// SAFETY: `inner` is written before any holder exists, by the one that changed `holders` from FREE; holders only share it; the
// one that counted `holders` below HELD has it alone. `Waker` is `Send` and `Sync`.
unsafe impl Sync for Wait {}

/// Those that found no room in their future's own place.
static MORE: Slab<Wait> = Slab::new(Wait::new);

impl Wait {
    const fn new(number: u32) -> Self {
        Self {
            holders: AtomicU32::new(FREE),
            stack: AtomicU32::new(0),
            serial: AtomicU64::new(0),
            inner: UnsafeCell::new(MaybeUninit::uninit()),
            number,
        }
    }

    /// One in a place of the registry.
    pub(super) const fn inline() -> Self {
        Self::new(INLINE)
    }

    /// Takes it for a holder, if it is free.
    fn taken(&self) -> bool {
        self.holders.load(Relaxed) == FREE
            && self.holders.compare_exchange(FREE, HELD, Acquire, Relaxed).is_ok()
    }

    /// Whose it is and at which stack, while somebody has it.
    fn read(&self) -> Option<(u64, u32)> {
        let serial = self.serial.load(Acquire);
        let stack = self.stack.load(Relaxed);
        fence(Acquire);
        (serial != 0 && self.serial.load(Relaxed) == serial).then_some((serial, stack))
    }

    /// # Safety
    /// The caller is a holder.
    unsafe fn waker(&self) -> &Waker {
        // SAFETY: written before the first holder got it, and there until the last, among which the caller is, gives it back.
        unsafe { (*self.inner.get()).assume_init_ref() }
    }

    /// # Safety
    /// The caller is a holder, and is none from now on.
    unsafe fn let_go(&self) {
        if self.holders.fetch_sub(1, Release) != HELD {
            return;
        }
        fence(Acquire);
        self.serial.store(0, Release);
        // SAFETY: the last holder's: nobody else reads it, and nobody writes it before `holders` is FREE again.
        let inner = unsafe { (*self.inner.get()).assume_init_read() };
        self.holders.store(FREE, Release);
        if self.number != INLINE {
            MORE.give(self.number);
        }
        // Last: it may drop the task, which may do anything.
        drop(inner);
    }
}

/// A poll's waker.
pub(crate) struct Waking<'w> {
    inner: &'w Waker,
    place: &'static Place,
    serial: u64,
}

impl<'w> Waking<'w> {
    #[inline]
    pub(crate) fn new(inner: &'w Waker, place: &'static Place) -> Self {
        Self { inner, place, serial: place.serial() }
    }

    /// Polls with it.
    #[inline]
    pub(crate) fn poll<T>(&self, poll: impl FnOnce(&mut Context<'_>) -> T) -> T {
        // SAFETY: the functions of `LENT` keep the contract of wakers for a `Waking` that lives, as this one does until the
        // poll has returned: a context lends its waker, so it isn't dropped or used up, and whoever keeps it clones it.
        let waker = unsafe { Waker::new(std::ptr::from_ref(self).cast(), &LENT) };
        let waker = ManuallyDrop::new(waker);
        poll(&mut Context::from_waker(&waker))
    }
}

/// A poll's own waker: its data is the [`Waking`].
static LENT: RawWakerVTable = RawWakerVTable::new(keep, wake_lent, wake_lent, |_| ());
/// A waker that was kept: its data is the [`Wait`].
static KEPT: RawWakerVTable = RawWakerVTable::new(again, wake, wake_by_ref, let_go);

/// # Safety
/// As a waker's function: `data` is a [`Waking`] that lives.
unsafe fn keep(data: *const ()) -> RawWaker {
    // SAFETY: the caller's.
    let waking = unsafe { &*data.cast::<Waking<'_>>() };
    let inner = ManuallyDrop::new(waking.inner.clone());
    let plain = || RawWaker::new(inner.data(), inner.vtable());
    let wait = match waking.place.waits().iter().find(|wait| wait.taken()) {
        Some(wait) => wait,
        None => match MORE.take() {
            Some(wait) => {
                wait.holders.store(HELD, Relaxed);
                wait
            }
            None => {
                waking.place.lose_waits();
                return plain();
            }
        },
    };
    // The chain ends at the frame of the wrapper, in which `waking` lies.
    wait.stack.store(heap::stack_up_to(data as usize), Relaxed);
    // SAFETY: taken just now, and nobody else has heard of it.
    unsafe { (*wait.inner.get()).write(ManuallyDrop::into_inner(inner)) };
    wait.serial.store(waking.serial, Release);
    RawWaker::new(std::ptr::from_ref(wait).cast(), &KEPT)
}

/// # Safety
/// As [`keep`].
unsafe fn wake_lent(data: *const ()) {
    // SAFETY: the caller's.
    unsafe { &*data.cast::<Waking<'_>>() }.inner.wake_by_ref();
}

/// # Safety
/// As a waker's function: `data` is a [`Wait`] of which the caller is a holder.
unsafe fn again(data: *const ()) -> RawWaker {
    // SAFETY: waits are never given back.
    let wait = unsafe { &*data.cast::<Wait>() };
    let before = wait.holders.fetch_add(1, Relaxed);
    if before > u32::MAX / 2 {
        std::process::abort(); // as `Arc` does: so many were forgotten
    }
    RawWaker::new(data, &KEPT)
}

/// # Safety
/// As [`again`]; the caller is no holder from now on.
unsafe fn wake(data: *const ()) {
    // SAFETY: the caller's. Woken first: a task that is neither woken nor waits for anything would be told as one that nothing
    // wakes.
    unsafe {
        wake_by_ref(data);
        let_go(data);
    }
}

/// # Safety
/// As [`again`].
unsafe fn wake_by_ref(data: *const ()) {
    // SAFETY: the caller's: it is a holder.
    unsafe { (*data.cast::<Wait>()).waker() }.wake_by_ref();
}

/// # Safety
/// As [`again`]; the caller is no holder from now on.
unsafe fn let_go(data: *const ()) {
    // SAFETY: the caller's.
    unsafe { (*data.cast::<Wait>()).let_go() };
}

/// The data of the executor's own waker.
#[inline]
pub(crate) fn executors(waker: &Waker) -> *const () {
    let mut waker = waker;
    loop {
        if std::ptr::eq(waker.vtable(), &LENT) {
            // SAFETY: a `Waking`, which lives while its waker does.
            waker = unsafe { &*waker.data().cast::<Waking<'_>>() }.inner;
        } else if std::ptr::eq(waker.vtable(), &KEPT) {
            // SAFETY: a `Wait`, of which the waker's owner is a holder.
            waker = unsafe { (*waker.data().cast::<Wait>()).waker() };
        } else {
            return waker.data();
        }
    }
}

/// The stacks at which each future's waker is kept now, by its serial; 0 where a stack isn't known.
pub(super) fn by_future() -> HashMap<u64, Vec<u32>> {
    let mut all: HashMap<u64, Vec<u32>> = HashMap::new();
    let own = registry::places().flat_map(Place::waits);
    for (serial, stack) in own.chain(MORE.each()).filter_map(Wait::read) {
        all.entry(serial).or_default().push(stack);
    }
    all
}

#[cfg(test)]
mod tests {
    use std::panic::Location;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::super::registry::{Registered, Role};
    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    struct Mine;

    fn waits(place: &Place) -> usize {
        by_future().get(&place.serial()).map_or(0, Vec::len)
    }

    #[test]
    fn each_waker_that_is_kept_is_a_wait_until_it_is_dropped_or_used() {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let registered = Registered::new::<Mine>(Role::Future, Location::caller());
        let place = registered.place().unwrap();
        let mut kept: Vec<Waker> = Vec::new();
        Waking::new(&waker, place).poll(|cx| {
            assert_eq!(executors(cx.waker()), waker.data());
            cx.waker().wake_by_ref();
            assert_eq!(waits(place), 0);
            kept.extend((0..5).map(|_| cx.waker().clone()));
        });
        assert_eq!((waits(place), Arc::strong_count(&woken)), (5, 7));
        let second = kept[0].clone();
        assert!(second.will_wake(&kept[0]) && !second.will_wake(&kept[1]));
        assert_eq!((waits(place), executors(&second)), (5, waker.data()));
        drop(kept.remove(0));
        assert_eq!(waits(place), 5); // the second holder
        second.wake();
        assert_eq!(waits(place), 4);
        kept.pop().unwrap().wake_by_ref();
        assert_eq!((waits(place), woken.0.load(Relaxed)), (3, 3));
        kept.clear();
        assert_eq!((waits(place), Arc::strong_count(&woken)), (0, 2));
    }

    #[test]
    fn a_wait_that_outlives_its_future_is_not_the_next_ones() {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let registered = Registered::new::<Mine>(Role::Future, Location::caller());
        let first = registered.place().unwrap();
        let late = Waking::new(&waker, first).poll(|cx| cx.waker().clone());
        drop(registered);
        // Places are used again, the newest first; other tests may have taken it.
        let others: Vec<_> =
            (0..64).map(|_| Registered::new::<Mine>(Role::Future, Location::caller())).collect();
        assert!(others.iter().all(|other| waits(other.place().unwrap()) == 0));
        late.wake();
        assert_eq!((woken.0.load(Relaxed), Arc::strong_count(&woken)), (1, 2));
    }

    #[test]
    fn wakers_are_kept_and_used_by_many_threads_without_mixing_them_up() {
        let woken: Vec<_> = (0..4).map(|_| Arc::new(Woken::default())).collect();
        std::thread::scope(|scope| {
            let (to, from) = std::sync::mpsc::channel::<Waker>();
            for woken in &woken {
                let to = to.clone();
                scope.spawn(move || {
                    let waker = Waker::from(Arc::clone(woken));
                    let registered = Registered::new::<Mine>(Role::Future, Location::caller());
                    for n in 0..2000 {
                        Waking::new(&waker, registered.place().unwrap()).poll(|cx| {
                            let (one, two) = (cx.waker().clone(), cx.waker().clone());
                            if n % 3 == 0 {
                                drop(two.clone());
                            }
                            drop(two);
                            to.send(one).unwrap();
                        });
                    }
                });
            }
            drop(to);
            scope.spawn(move || from.into_iter().for_each(Waker::wake));
            by_future();
        });
        assert!(woken.iter().all(|w| w.0.load(Relaxed) == 2000 && Arc::strong_count(w) == 1));
    }
}
