//! What a thread says of the poll that it is in, of a wrapped future or of a task that tokio's hooks tell of, for the
//! watchdog to read meanwhile; and what the poll finds when it ends.

mod ended;

use std::panic::Location;
use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::Duration;

use super::judge::{PollFacts, SlowCallback};
use super::tasks::registry::Place;
#[cfg(feature = "tokio")]
use super::tokio as runtime;
use super::warning::Row;
use super::{clock, heap, switch};
use crate::sys::line::line;
use crate::thread::Slot;

/// Part of a thread's slot. One writer, the thread, except `case` and `waited`, which the watchdog sets for the poll that it saw.
#[derive(Debug)]
pub(crate) struct Published {
    /// When the poll began, in ticks; 0: in none.
    since: AtomicU64,
    /// What the thread had allocated.
    allocated: AtomicI64,
    /// The waker's data: the task's block, or near its start.
    waker: AtomicUsize,
    /// Where the future was wrapped, or the hooked task spawned; 0: not known.
    made: AtomicUsize,
    /// The task that tokio's hooks say is polled, by its id; 0: a wrapped future.
    hooked: AtomicU64,
    /// The report that the watchdog wrote of this poll, else 0.
    case: AtomicU64,
    /// Nanoseconds that the thread had waited for a processor when the watchdog first saw this poll, +1; else 0.
    waited: AtomicU64,
    /// Ticks of polls that ended inside the present one and were told.
    told: AtomicU64,
    /// What [`clock::unsure`] said when the poll began.
    unsure: AtomicU64,
    /// Other tasks were polled inside: what it takes isn't its own.
    host: AtomicBool,
    /// Its place in the registry of tasks; 0: none.
    place: AtomicUsize,
    /// That of the outermost wrapped poll of the thread.
    outermost: AtomicUsize,
    /// The test that the thread works for, by its number; 0: none.
    test: AtomicU64,
    /// Not 0: the thread does work of ours that the program asked for, inside of the poll.
    ours: AtomicUsize,
}

impl Published {
    pub(crate) const fn new() -> Self {
        Self {
            since: AtomicU64::new(0),
            allocated: AtomicI64::new(0),
            waker: AtomicUsize::new(0),
            made: AtomicUsize::new(0),
            hooked: AtomicU64::new(0),
            case: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            told: AtomicU64::new(0),
            unsure: AtomicU64::new(0),
            host: AtomicBool::new(false),
            place: AtomicUsize::new(0),
            outermost: AtomicUsize::new(0),
            test: AtomicU64::new(0),
            ours: AtomicUsize::new(0),
        }
    }
}

/// A poll as the watchdog sees it.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "tokio"), allow(dead_code))]
pub(crate) struct Current {
    /// When it began: which poll it is.
    pub since: u64,
    pub ticks: u64,
    pub allocated: i64,
    /// 0 for the root future, whose waker is no task's.
    pub waker: usize,
    /// Nothing for the root future, and where it isn't known.
    pub made: Option<&'static Location<'static>>,
    /// What [`clock::unsure`] said when it began.
    pub unsure: u64,
    /// The tokio task that it belongs to, 0: none; nothing where that isn't known.
    pub task: Option<u64>,
    /// The task that tokio's hooks say is polled, by its id; 0: a wrapped future.
    pub hooked: u64,
    /// The stack that spawned it, by its trace; 0: not known.
    pub spawned: u32,
}

impl Published {
    /// The thread is no more: it is in no poll.
    pub(crate) fn forget(&self) {
        self.since.store(0, Relaxed);
        self.place.store(0, Relaxed);
        self.outermost.store(0, Relaxed);
        self.test.store(0, Relaxed);
        self.ours.store(0, Relaxed);
    }

    /// Whether the thread does work of ours inside of its poll. Any thread.
    #[cfg(feature = "tokio")]
    pub(crate) fn is_ours(&self) -> bool {
        self.ours.load(Acquire) != 0
    }

    /// The test that the thread works for. Any thread.
    pub(crate) fn test(&self) -> u64 {
        self.test.load(Relaxed)
    }

    /// The thread's own.
    #[cfg_attr(not(feature = "tokio"), allow(dead_code))]
    pub(crate) fn set_test(&self, number: u64) {
        self.test.store(number, Relaxed);
    }

    /// The poll that the thread is in, if any. Any thread.
    #[cfg_attr(not(feature = "tokio"), allow(dead_code))]
    pub(crate) fn current(&self) -> Option<Current> {
        let since = self.since.load(Acquire);
        if since == 0 {
            return None;
        }
        let place = as_place(self.place.load(Relaxed));
        let root = place.is_some_and(Place::is_root);
        let hooked = self.hooked.load(Relaxed);
        let made = if root { std::ptr::null() } else { self.made.load(Relaxed) as *const Location<'static> };
        let current = Current {
            since,
            ticks: clock::ticks().saturating_sub(since),
            allocated: self.allocated.load(Relaxed),
            waker: if root { 0 } else { self.waker.load(Relaxed) },
            // SAFETY: null or the address of a `&'static Location`, written by `enter`.
            made: unsafe { made.as_ref() },
            unsure: self.unsure.load(Relaxed),
            task: place.map(Place::polled_by),
            hooked,
            spawned: place.filter(|_| hooked != 0).map_or(0, spawned),
        };
        (self.since.load(Acquire) == since).then_some(current)
    }

    /// Whether the thread is still in the poll that began then.
    #[cfg(feature = "tokio")]
    pub(crate) fn still(&self, since: u64) -> bool {
        self.since.load(Acquire) == since
    }

    /// Notes what the watchdog saw of a poll: the first delay wins.
    #[cfg(feature = "tokio")]
    pub(crate) fn note_wait(&self, wait: Duration) -> Duration {
        let nanos = (wait.as_nanos() as u64).wrapping_add(1);
        match self.waited.compare_exchange(0, nanos, Relaxed, Relaxed) {
            Ok(_) => wait,
            Err(first) => Duration::from_nanos(first - 1),
        }
    }

    /// The watchdog saw another task polled inside of the poll that began then.
    #[cfg(feature = "tokio")]
    pub(crate) fn note_host(&self, since: u64) {
        self.host.store(true, Release);
        // It ended meanwhile, and another has begun: that hosts nobody yet.
        if !self.still(since) {
            self.host.store(false, Release);
        }
    }

    /// Whether other tasks were polled inside.
    #[cfg(feature = "tokio")]
    pub(crate) fn is_host(&self) -> bool {
        self.host.load(Acquire)
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn note_case(&self, case: u64) {
        self.case.store(case, Relaxed);
    }
}

/// A poll under way; what ends it, by return or by panic, is its drop.
pub(crate) struct Entered {
    slot: &'static Slot,
    since: u64,
    /// The poll around this one on the same thread.
    outer: Outer,
    place: Option<&'static Place>,
    /// The task that blocks counted for outside of this poll, by its key.
    task: u64,
}

/// What a thread says of the poll around another one.
struct Outer {
    since: u64,
    allocated: i64,
    waker: usize,
    made: usize,
    hooked: u64,
    case: u64,
    waited: u64,
    told: u64,
    unsure: u64,
    host: bool,
    /// The registered polls: the next, and the outermost.
    place: usize,
    outermost: usize,
}

impl Outer {
    #[inline]
    fn of(p: &Published) -> Self {
        Self {
            since: p.since.load(Relaxed),
            allocated: p.allocated.load(Relaxed),
            waker: p.waker.load(Relaxed),
            made: p.made.load(Relaxed),
            hooked: p.hooked.load(Relaxed),
            case: p.case.load(Relaxed),
            waited: p.waited.load(Relaxed),
            told: p.told.load(Relaxed),
            unsure: p.unsure.load(Relaxed),
            host: p.host.load(Relaxed),
            place: p.place.load(Relaxed),
            outermost: p.outermost.load(Relaxed),
        }
    }

    /// The poll inside of it is over, of which so many ticks were told.
    #[inline]
    fn back(&self, p: &Published, told: u64) {
        p.since.store(0, Release);
        p.place.store(self.place, Relaxed);
        p.outermost.store(self.outermost, Relaxed);
        p.allocated.store(self.allocated, Relaxed);
        p.waker.store(self.waker, Relaxed);
        p.made.store(self.made, Relaxed);
        p.hooked.store(self.hooked, Relaxed);
        p.case.store(self.case, Relaxed);
        p.waited.store(self.waited, Relaxed);
        p.told.store(self.told.wrapping_add(told), Relaxed);
        p.unsure.store(self.unsure, Relaxed);
        p.host.store(self.host, Relaxed);
        p.since.store(self.since, Release);
    }
}

/// The thread says that a poll is about to begin.
#[inline]
fn begins(slot: &Slot, waker: usize, made: usize, hooked: u64) {
    let p = &slot.poll;
    p.since.store(0, Release);
    p.allocated.store(slot.allocated.load(Relaxed), Relaxed);
    p.waker.store(waker, Relaxed);
    p.made.store(made, Relaxed);
    p.hooked.store(hooked, Relaxed);
    p.case.store(0, Relaxed);
    p.waited.store(0, Relaxed);
    p.told.store(0, Relaxed);
    p.host.store(false, Relaxed);
}

/// Begins a poll. Only while async debug is on.
#[inline]
pub(crate) fn enter(
    made: &'static Location<'static>,
    waker: *const (),
    place: Option<&'static Place>,
) -> Option<Entered> {
    let slot = heap::register_thread();
    if slot.shared {
        return None;
    }
    let p = &slot.poll;
    let mut outer = Outer::of(p);
    let task = line().task.get();
    begins(slot, waker as usize, std::ptr::from_ref(made) as usize, 0);
    let since = clock::ticks();
    p.unsure.store(clock::unsure(since), Relaxed);
    if let Some(place) = place {
        let host = as_place(outer.place);
        place.begins(since, waker as usize, host);
        outer.host |= host.is_some_and(|host| host.polled_by() != place.polled_by());
        p.place.store(std::ptr::from_ref(place) as usize, Relaxed);
        if outer.outermost == 0 {
            p.outermost.store(std::ptr::from_ref(place) as usize, Relaxed);
        }
        if let Some(key) = place.key(outer.outermost == 0) {
            line().task.set(key);
        }
    }
    p.since.store(since, Release);
    Some(Entered { slot, since, outer, place, task })
}

/// Begins a poll of task `id`, as tokio's hooks tell. Only while async debug is on.
#[cfg(all(feature = "tokio", tokio_unstable))]
#[inline]
pub(crate) fn enter_hooked(id: u64, place: Option<&'static Place>) -> Option<Entered> {
    let slot = heap::register_thread();
    if slot.shared {
        return None;
    }
    let p = &slot.poll;
    let outer = Outer::of(p);
    let task = line().task.get();
    begins(slot, 0, place.map_or(0, Place::made), id);
    let since = clock::ticks();
    p.unsure.store(clock::unsure(since), Relaxed);
    if let Some(place) = place {
        place.begins_hooked(since);
    }
    p.place.store(place.map_or(0, |place| std::ptr::from_ref(place) as usize), Relaxed);
    line().task.set(id);
    p.since.store(since, Release);
    Some(Entered { slot, since, outer, place, task })
}

#[cfg(all(feature = "tokio", tokio_unstable))]
impl Entered {
    /// Its end wasn't seen: nothing is told of it.
    pub(crate) fn forget(self) {
        let lost = std::mem::ManuallyDrop::new(self);
        line().task.set(lost.task);
        lost.outer.back(&lost.slot.poll, 0);
    }
}

/// Where the task of this place was spawned, by the trace of the stack.
#[cfg_attr(not(feature = "tokio"), allow(dead_code))]
fn spawned(place: &Place) -> u32 {
    #[cfg(all(feature = "tokio", tokio_unstable))]
    return place.spawned();
    #[cfg(not(all(feature = "tokio", tokio_unstable)))]
    {
        let _ = place;
        0
    }
}

/// Work of ours on a thread of the program's, such as finding names for a list that is shown: while this lives it isn't the
/// poll's time.
pub(crate) struct OurTime {
    slot: &'static Slot,
    begun: u64,
}

/// Begins work of ours.
pub(crate) fn our_time() -> Option<OurTime> {
    let slot = heap::register_thread();
    if slot.shared {
        return None;
    }
    slot.poll.ours.store(slot.poll.ours.load(Relaxed).wrapping_add(1), Release);
    Some(OurTime { slot, begun: clock::ticks() })
}

impl Drop for OurTime {
    fn drop(&mut self) {
        let p = &self.slot.poll;
        let around = p.ours.load(Relaxed).wrapping_sub(1);
        if around == 0 {
            let passed = clock::ticks().saturating_sub(self.begun);
            p.told.store(p.told.load(Relaxed).wrapping_add(passed), Relaxed);
            let since = p.since.load(Relaxed);
            if since != 0 {
                // For the watchdog the poll begins so much later.
                p.since.store(since.wrapping_add(passed), Release);
            }
        }
        p.ours.store(around, Release);
    }
}

fn as_place(address: usize) -> Option<&'static Place> {
    // SAFETY: 0, or the address of a place, which is never given back, written by `enter`.
    unsafe { (address as *const Place).as_ref() }
}

/// Whether this thread is in a wrapped poll.
pub(crate) fn inside() -> bool {
    let slot = heap::register_thread();
    !slot.shared && slot.poll.since.load(Relaxed) != 0
}

/// The outermost registered poll that this thread is in.
pub(crate) fn outermost() -> Option<&'static Place> {
    heap::register_thread().outermost_poll()
}

impl Slot {
    /// The outermost registered poll that its thread, the caller's, is in.
    #[inline]
    pub(super) fn outermost_poll(&self) -> Option<&'static Place> {
        if self.shared { None } else { as_place(self.poll.outermost.load(Relaxed)) }
    }
}

impl Drop for Entered {
    #[inline]
    fn drop(&mut self) {
        let passed = clock::ticks().saturating_sub(self.since);
        let p = &self.slot.poll;
        if let Some(place) = self.place {
            place.ended(passed);
        }
        let mut told = p.told.load(Relaxed);
        if !clock::quick(passed.saturating_sub(told)) && slow(self.slot, passed.saturating_sub(told)) {
            told = passed;
        }
        line().task.set(self.task);
        self.outer.back(p, told);
    }
}

/// A poll has ended after so many ticks, perhaps slow: whether it was told.
#[cold]
#[inline(never)]
fn slow(slot: &'static Slot, passed: u64) -> bool {
    let p = &slot.poll;
    // First of all: what follows allocates, too.
    let bytes = slot.allocated.load(Relaxed).saturating_sub(p.allocated.load(Relaxed));
    let limit = switch::limit();
    let case = p.case.load(Relaxed);
    // Of what polls others, the watchdog proves what itself takes.
    if case == 0 && p.host.load(Relaxed) && !limit.is_zero() {
        return false;
    }
    let seen = clock::span(passed);
    #[cfg(feature = "tokio")]
    let seen = runtime::surely(seen, p.unsure.load(Relaxed));
    clock::limit_changed(limit);
    let waited = match p.waited.load(Relaxed) {
        0 => Duration::ZERO,
        #[cfg(feature = "tokio")]
        first => runtime::cpu::counts(heap::thread_id())
            .unwrap_or_default()
            .waited
            .saturating_sub(Duration::from_nanos(first - 1)),
        // Nobody watches.
        #[cfg(not(feature = "tokio"))]
        _ => Duration::ZERO,
    };
    let facts = PollFacts { seen, waited, maybe_two: false, step: Duration::ZERO };
    let Some(verdict) = SlowCallback::judge(&facts, limit) else { return false };
    let _ours = heap::ours();
    let Some(told) = ended::telling(slot, verdict, limit, bytes) else { return false };
    told.now();
    true
}

fn who(root: bool) -> String {
    match heap::this_task() {
        Some(id) => format!("task {id}"),
        None if root => "the root future".into(),
        None => "a watched future".into(),
    }
}

/// Who is polled on this thread, for a report, and whether it is a root future: inside of a wrapped poll.
pub(super) fn who_here() -> (String, bool) {
    let slot = heap::register_thread();
    let root = !slot.shared && as_place(slot.poll.place.load(Relaxed)).is_some_and(Place::is_root);
    (who(root), root)
}

/// The same for the future of this poll that was wrapped there, with its place.
pub(super) fn wrapped_here(made: &'static Location<'static>) -> (String, Option<Row>) {
    let (who, root) = who_here();
    (who, Some(Row::place(wrapped_by(root), made)))
}

/// What wrapped a future, as its place is labelled.
pub(super) fn wrapped_by(root: bool) -> &'static str {
    if root { "run" } else { "watched" }
}
