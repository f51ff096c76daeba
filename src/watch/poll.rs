//! What a thread says of the wrapped poll that it is in, for the watchdog to read meanwhile; and what the poll finds
//! when it ends.

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
use super::verdict::Case;
use super::warning::{Kind, Row, Warning};
use super::{clock, heap, reporter, switch, units};
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
    /// Where the future was wrapped.
    made: AtomicUsize,
    /// The report that the watchdog wrote of this poll, else 0.
    case: AtomicU64,
    /// Nanoseconds that the thread had waited for a processor when the watchdog first saw this poll, +1; else 0.
    waited: AtomicU64,
    /// Ticks of polls that ended inside the present one and were told.
    told: AtomicU64,
    /// What had surely passed when the poll began.
    sure: AtomicU64,
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
            case: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            told: AtomicU64::new(0),
            sure: AtomicU64::new(0),
            host: AtomicBool::new(false),
            place: AtomicUsize::new(0),
            outermost: AtomicUsize::new(0),
            test: AtomicU64::new(0),
            ours: AtomicUsize::new(0),
        }
    }
}

/// A wrapped poll as the watchdog sees it.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "tokio"), allow(dead_code))]
pub(crate) struct Current {
    /// When it began: which poll it is.
    pub since: u64,
    pub ticks: u64,
    pub allocated: i64,
    /// 0 for the root future, whose waker is no task's.
    pub waker: usize,
    /// Nothing for the root future.
    pub made: Option<&'static Location<'static>>,
    /// What had surely passed when it began.
    pub sure: u64,
    /// The tokio task that it belongs to, 0: none; nothing where that isn't known.
    pub task: Option<u64>,
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
        let made = if root { std::ptr::null() } else { self.made.load(Relaxed) as *const Location<'static> };
        let current = Current {
            since,
            ticks: clock::ticks().saturating_sub(since),
            allocated: self.allocated.load(Relaxed),
            waker: if root { 0 } else { self.waker.load(Relaxed) },
            // SAFETY: null or the address of a `&'static Location`, written by `enter`.
            made: unsafe { made.as_ref() },
            sure: self.sure.load(Relaxed),
            task: place.map(Place::polled_by),
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

/// A wrapped poll under way; what ends it, by return or by panic, is its drop.
pub(crate) struct Entered {
    slot: &'static Slot,
    since: u64,
    /// The poll around this one on the same thread.
    outer: Outer,
    place: Option<&'static Place>,
    /// The registered polls around this one: the next, and the outermost.
    around: (usize, usize),
    /// The task that blocks counted for outside of this poll, by its key.
    task: u64,
}

/// What is said of a poll while another one runs inside.
struct Outer {
    since: u64,
    allocated: i64,
    waker: usize,
    made: usize,
    case: u64,
    waited: u64,
    told: u64,
    sure: u64,
    host: bool,
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
    let mut outer = Outer {
        since: p.since.load(Relaxed),
        allocated: p.allocated.load(Relaxed),
        waker: p.waker.load(Relaxed),
        made: p.made.load(Relaxed),
        case: p.case.load(Relaxed),
        waited: p.waited.load(Relaxed),
        told: p.told.load(Relaxed),
        sure: p.sure.load(Relaxed),
        host: p.host.load(Relaxed),
    };
    let around = (p.place.load(Relaxed), p.outermost.load(Relaxed));
    let task = line().task.get();
    p.since.store(0, Release);
    p.allocated.store(slot.allocated.load(Relaxed), Relaxed);
    p.waker.store(waker as usize, Relaxed);
    p.made.store(std::ptr::from_ref(made) as usize, Relaxed);
    p.case.store(0, Relaxed);
    p.waited.store(0, Relaxed);
    p.told.store(0, Relaxed);
    p.sure.store(clock::sure(), Relaxed);
    p.host.store(false, Relaxed);
    let since = clock::ticks();
    if let Some(place) = place {
        let host = as_place(around.0);
        place.begins(since, waker as usize, host);
        outer.host |= host.is_some_and(|host| host.polled_by() != place.polled_by());
        p.place.store(std::ptr::from_ref(place) as usize, Relaxed);
        if around.1 == 0 {
            p.outermost.store(std::ptr::from_ref(place) as usize, Relaxed);
        }
        if let Some(key) = place.key(around.1 == 0) {
            line().task.set(key);
        }
    }
    p.since.store(since, Release);
    Some(Entered { slot, since, outer, place, around, task })
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
        p.since.store(0, Release);
        p.place.store(self.around.0, Relaxed);
        p.outermost.store(self.around.1, Relaxed);
        line().task.set(self.task);
        let outer = &self.outer;
        p.allocated.store(outer.allocated, Relaxed);
        p.waker.store(outer.waker, Relaxed);
        p.made.store(outer.made, Relaxed);
        p.case.store(outer.case, Relaxed);
        p.waited.store(outer.waited, Relaxed);
        p.told.store(outer.told.wrapping_add(told), Relaxed);
        p.sure.store(outer.sure, Relaxed);
        p.host.store(outer.host, Relaxed);
        p.since.store(outer.since, Release);
    }
}

/// A poll of so many ticks has ended, perhaps slow: whether it was told.
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
    let seen = runtime::surely(seen, p.sure.load(Relaxed));
    clock::limit_changed(limit);
    let waited = match p.waited.load(Relaxed) {
        0 => Duration::ZERO,
        #[cfg(feature = "tokio")]
        first => runtime::cpu::waited(heap::thread_id())
            .unwrap_or_default()
            .saturating_sub(Duration::from_nanos(first - 1)),
        // Nobody watches.
        #[cfg(not(feature = "tokio"))]
        _ => Duration::ZERO,
    };
    let facts = PollFacts { seen, waited, maybe_two: false, step: Duration::ZERO };
    let Some(verdict) = SlowCallback::judge(&facts, limit) else { return false };
    let made = p.made.load(Relaxed) as *const Location<'static>;
    let root = as_place(p.place.load(Relaxed)).is_some_and(Place::is_root);
    let spawned = if root { None } else { heap::trace_of(p.waker.load(Relaxed)) };
    let _ours = heap::ours();
    // SAFETY: as in `current`.
    let made = unsafe { made.as_ref() };
    reporter::tell(ended(&who(root), root, verdict, limit, bytes, made, spawned, case));
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

/// What wrapped a future, as its place is labelled.
pub(super) fn wrapped_by(root: bool) -> &'static str {
    if root { "run" } else { "watched" }
}

/// The report of a wrapped poll that has ended: exact.
#[allow(clippy::too_many_arguments)]
fn ended(
    who: &str,
    root: bool,
    verdict: SlowCallback,
    limit: Duration,
    bytes: i64,
    made: Option<&'static Location<'static>>,
    spawned: Option<Vec<usize>>,
    case: u64,
) -> Warning {
    let number = if case == 0 { units::next_case() } else { case };
    let mut sentence = format!(
        "one poll of {who} took {}, limit {}; it allocated {} (#{number})",
        units::words_of_time(verdict.took),
        units::words_of_time(limit),
        units::words_of_bytes(bytes),
    );
    if case != 0 {
        sentence.push_str(": ended");
    }
    let mut rows = Vec::new();
    // What was told while it was stuck has its places already.
    if case == 0 {
        if let Some(made) = made {
            rows.push(Row::place(wrapped_by(root), made));
        }
        match spawned {
            None if root => {}
            Some(stack) => rows.push(Row::stack("spawned", stack)),
            None => rows.push(Row::words("help", "TRACEMALLOC=5 adds where it was spawned".into())),
        }
    }
    let case = if case == 0 { Case::Whole } else { Case::Ends(case) };
    // With no limit people want to see each of them, as asyncio shows them.
    let every = limit.is_zero();
    Warning { every, ..Warning::new(Kind::SlowCallback, sentence, rows).of_case(case) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_poll_keeps_the_number_under_which_it_was_told_while_stuck() {
        let verdict = SlowCallback { took: Duration::from_millis(151) };
        let w = ended("task 3", false, verdict, Duration::from_millis(100), 2048, None, None, 7);
        assert_eq!(
            w.sentence,
            "one poll of task 3 took 151 ms, limit 100 ms; it allocated 2.0 KiB (#7): ended"
        );
    }
}
