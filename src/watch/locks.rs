//! Which locks of [`crate::sync`] each thread holds, and which it waits for. Written only while async debug is on.

use std::cell::{Cell, RefCell};
use std::panic::Location;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError};

use super::warning::{Kind, Row, Warning};
use super::{heap, switch};

/// Part of a lock: who took it last and holds it.
#[derive(Debug)]
pub(crate) struct Holder {
    place: AtomicPtr<Location<'static>>,
    thread: AtomicI32,
}

impl Holder {
    pub(crate) const fn new() -> Self {
        Self { place: AtomicPtr::new(null_mut()), thread: AtomicI32::new(0) }
    }

    /// Thread id and place.
    #[cfg(feature = "tokio")]
    pub(crate) fn now(&self) -> Option<(i32, &'static Location<'static>)> {
        let thread = self.thread.load(Ordering::Acquire);
        // SAFETY: null or the address of a `&'static Location`, stored by `hold`.
        let place = unsafe { self.place.load(Ordering::Acquire).as_ref() }?;
        Some((thread, place))
    }
}

/// One lock that this thread holds: a block of its own, whose trace is the stack that took it.
struct Taken {
    number: u64,
    place: &'static Location<'static>,
    what: &'static str,
    /// Told by the innermost wrapped future: not those around it.
    told: Cell<bool>,
}

thread_local! {
    /// Of the lock that this thread took last.
    static NUMBER: Cell<u64> = const { Cell::new(0) };
    /// Boxed: the block is what has the trace.
    #[allow(clippy::vec_box)]
    static HELD: RefCell<Vec<Box<Taken>>> = const { RefCell::new(Vec::new()) };
}

/// Lives in a lock's guard, which no other thread can drop.
#[derive(Debug)]
pub(crate) struct Held<'l> {
    holder: &'l Holder,
    /// 0: not noted.
    number: u64,
}

/// This thread has taken a lock.
#[inline]
pub(crate) fn hold<'l>(
    holder: &'l Holder,
    what: &'static str,
    place: &'static Location<'static>,
) -> Held<'l> {
    let number = if switch::on() { note(holder, what, place) } else { 0 };
    Held { holder, number }
}

#[cold]
fn note(holder: &Holder, what: &'static str, place: &'static Location<'static>) -> u64 {
    // A lock may be taken in a destructor of a thread-local, when ours is gone: then it isn't noted.
    let number = NUMBER.get() + 1;
    let noted = HELD.try_with(|held| match held.try_borrow_mut() {
        Ok(mut held) => {
            held.push(Box::new(Taken { number, place, what, told: Cell::new(false) }));
            true
        }
        Err(_) => false,
    });
    if noted != Ok(true) {
        return 0;
    }
    NUMBER.set(number);
    holder.thread.store(heap::thread_id(), Ordering::Release);
    holder.place.store(std::ptr::from_ref(place).cast_mut(), Ordering::Release);
    number
}

impl<'l> Held<'l> {
    /// Not held any more: where it may be taken again.
    pub(crate) fn holder(self) -> &'l Holder {
        self.holder
    }
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.number != 0 {
            forget(self.holder, self.number);
        }
    }
}

#[cold]
fn forget(holder: &Holder, number: u64) {
    holder.place.store(null_mut(), Ordering::Release);
    let _ = HELD.try_with(|held| {
        if let Ok(mut held) = held.try_borrow_mut()
            && let Some(at) = held.iter().rposition(|taken| taken.number == number)
        {
            held.remove(at);
        }
    });
}

/// The number of the lock that this thread took last: what it takes later has a higher one.
#[inline]
pub(super) fn last() -> u64 {
    NUMBER.get()
}

/// A poll that began when `before` was the last has ended without being done: a lock that it took and holds on to is held
/// across an `.await`. `whose`: who was polled, and where it was spawned or watched.
#[inline]
pub(super) fn pending(before: u64, whose: impl FnOnce() -> (String, Option<Row>)) {
    if NUMBER.get() != before {
        let _ours = heap::ours();
        let (who, place) = whose();
        still_held(before, &who, place.as_ref());
    }
}

#[cold]
fn still_held(before: u64, who: &str, whose: Option<&Row>) {
    let told: Vec<Warning> = HELD.with(|held| {
        let Ok(held) = held.try_borrow() else { return Vec::new() };
        let of_this_poll = held.iter().filter(|taken| taken.number > before && !taken.told.replace(true));
        of_this_poll
            .map(|taken| across(taken, heap::trace_of(std::ptr::from_ref(&**taken) as usize), who, whose))
            .collect()
    });
    told.into_iter().for_each(super::reporter::tell);
}

fn across(taken: &Taken, stack: Option<Vec<usize>>, who: &str, whose: Option<&Row>) -> Warning {
    let mut help = format!(
        "drop the guard before the `.await`, or use `tokio::sync::{}`: whoever locks it meanwhile blocks its worker",
        taken.what
    );
    let locked = match stack {
        Some(stack) => Row::stack("locked", stack),
        None => {
            help.push_str("; TRACEMALLOC=5 adds the whole stack that took it");
            Row::place("locked", taken.place)
        }
    };
    let rows = [Some(locked), whose.cloned(), Some(Row::words("help", help))].into_iter().flatten().collect();
    Warning::new(Kind::LockAcrossAwait, format!("{who} holds a {} while it waits", taken.what), rows)
}

/// A thread that waits for a lock, for as long as this lives.
pub(crate) struct Waits(i32);

/// Who waits for what. The holders belong to locks that their waiters borrow.
static WAITING: Mutex<Vec<(i32, &'static Holder)>> = Mutex::new(Vec::new());

impl Waits {
    /// This thread begins to wait.
    pub(crate) fn begin(holder: &Holder) -> Option<Self> {
        if !switch::on() {
            return None;
        }
        let _ours = heap::ours();
        let thread = heap::thread_id();
        // SAFETY: the entry is gone before `begin`'s caller, who borrows the lock for as long as it waits, returns: `drop` below.
        // Others read it under the list's lock only.
        let holder = unsafe { &*std::ptr::from_ref(holder) };
        WAITING.lock().unwrap_or_else(PoisonError::into_inner).push((thread, holder));
        Some(Self(thread))
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        WAITING.lock().unwrap_or_else(PoisonError::into_inner).retain(|(thread, _)| *thread != self.0);
    }
}

/// Who holds the lock that this thread waits for: its thread id, and where it took it.
#[cfg(feature = "tokio")]
pub(crate) fn awaited_by(thread: i32) -> Option<(i32, &'static Location<'static>)> {
    let waiting = WAITING.try_lock().ok()?;
    waiting.iter().find(|(waiter, _)| *waiter == thread)?.1.now()
}
