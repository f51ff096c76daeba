//! What a thread says of the wrapped poll that it is in, for the watchdog to read meanwhile; and what the poll finds
//! when it ends.

use std::panic::Location;
use std::sync::atomic::{
    AtomicI64, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::Duration;

use super::judge::{PollFacts, SlowCallback};
use super::verdict::Case;
use super::warning::{Kind, Row, Warning};
use super::{clock, heap, reporter, switch, tokio as runtime};
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
        }
    }
}

/// A wrapped poll as the watchdog sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Current {
    /// When it began: which poll it is.
    pub since: u64,
    pub ticks: u64,
    pub allocated: i64,
    pub waker: usize,
    pub made: Option<&'static Location<'static>>,
}

impl Published {
    /// The thread is no more: it is in no poll.
    pub(crate) fn forget(&self) {
        self.since.store(0, Relaxed);
    }

    /// The poll that the thread is in, if any. Any thread.
    pub(crate) fn current(&self) -> Option<Current> {
        let since = self.since.load(Acquire);
        if since == 0 {
            return None;
        }
        let made = self.made.load(Relaxed) as *const Location<'static>;
        let current = Current {
            since,
            ticks: clock::ticks().saturating_sub(since),
            allocated: self.allocated.load(Relaxed),
            waker: self.waker.load(Relaxed),
            // SAFETY: null or the address of a `&'static Location`, written by `enter`.
            made: unsafe { made.as_ref() },
        };
        (self.since.load(Acquire) == since).then_some(current)
    }

    /// Whether the thread is still in the poll that began then.
    pub(crate) fn still(&self, since: u64) -> bool {
        self.since.load(Acquire) == since
    }

    /// Notes what the watchdog saw of a poll: the first delay wins.
    pub(crate) fn note_wait(&self, wait: Duration) -> Duration {
        let nanos = (wait.as_nanos() as u64).wrapping_add(1);
        match self.waited.compare_exchange(0, nanos, Relaxed, Relaxed) {
            Ok(_) => wait,
            Err(first) => Duration::from_nanos(first - 1),
        }
    }

    pub(crate) fn note_case(&self, case: u64) {
        self.case.store(case, Relaxed);
    }
}

/// A wrapped poll under way; what ends it, by return or by panic, is its drop.
pub(crate) struct Entered {
    slot: &'static Slot,
    since: u64,
    /// The poll around this one on the same thread.
    outer: (u64, i64, usize, usize, u64, u64, u64),
}

/// Begins a poll. Only while async debug is on.
#[inline]
pub(crate) fn enter(made: &'static Location<'static>, waker: *const ()) -> Option<Entered> {
    let slot = heap::register_thread();
    if slot.shared {
        return None;
    }
    let p = &slot.poll;
    let outer = (
        p.since.load(Relaxed),
        p.allocated.load(Relaxed),
        p.waker.load(Relaxed),
        p.made.load(Relaxed),
        p.case.load(Relaxed),
        p.waited.load(Relaxed),
        p.told.load(Relaxed),
    );
    p.since.store(0, Release);
    p.allocated.store(slot.allocated.load(Relaxed), Relaxed);
    p.waker.store(waker as usize, Relaxed);
    p.made.store(std::ptr::from_ref(made) as usize, Relaxed);
    p.case.store(0, Relaxed);
    p.waited.store(0, Relaxed);
    p.told.store(0, Relaxed);
    let since = clock::ticks();
    p.since.store(since, Release);
    Some(Entered { slot, since, outer })
}

impl Drop for Entered {
    #[inline]
    fn drop(&mut self) {
        let passed = clock::ticks().saturating_sub(self.since);
        let p = &self.slot.poll;
        let mut told = p.told.load(Relaxed);
        if !clock::quick(passed.saturating_sub(told)) && slow(self.slot, passed.saturating_sub(told)) {
            told = passed;
        }
        p.since.store(0, Release);
        let (since, allocated, waker, made, case, waited, outer_told) = self.outer;
        p.allocated.store(allocated, Relaxed);
        p.waker.store(waker, Relaxed);
        p.made.store(made, Relaxed);
        p.case.store(case, Relaxed);
        p.waited.store(waited, Relaxed);
        p.told.store(outer_told.wrapping_add(told), Relaxed);
        p.since.store(since, Release);
    }
}

/// A poll of so many ticks has ended, perhaps slow: whether it was told.
#[cold]
#[inline(never)]
fn slow(slot: &'static Slot, passed: u64) -> bool {
    let p = &slot.poll;
    let limit = switch::limit();
    let seen = clock::span(passed);
    clock::limit_changed(limit);
    let waited = match p.waited.load(Relaxed) {
        0 => Duration::ZERO,
        first => runtime::cpu::waited(heap::thread_id())
            .unwrap_or_default()
            .saturating_sub(Duration::from_nanos(first - 1)),
    };
    let facts = PollFacts { seen, waited, maybe_two: false, step: Duration::ZERO };
    let Some(verdict) = SlowCallback::judge(&facts, limit) else { return false };
    let bytes = slot.allocated.load(Relaxed).saturating_sub(p.allocated.load(Relaxed));
    let made = p.made.load(Relaxed) as *const Location<'static>;
    let case = p.case.load(Relaxed);
    let spawned = heap::trace_of(p.waker.load(Relaxed));
    let _ours = heap::ours();
    // SAFETY: as in `current`.
    let made = unsafe { made.as_ref() };
    let who = match ::tokio::task::try_id() {
        Some(id) => format!("task {id}"),
        None => "a watched future".into(),
    };
    reporter::tell(ended(&who, verdict, limit, bytes, made, spawned, case));
    true
}

/// The report of a wrapped poll that has ended: exact.
fn ended(
    who: &str,
    verdict: SlowCallback,
    limit: Duration,
    bytes: i64,
    made: Option<&'static Location<'static>>,
    spawned: Option<Vec<usize>>,
    case: u64,
) -> Warning {
    let number = if case == 0 { runtime::next_case() } else { case };
    let mut sentence = format!(
        "one poll of {who} took {}, limit {}; it allocated {} (#{number})",
        runtime::words_of_time(verdict.took),
        runtime::words_of_time(limit),
        runtime::words_of_bytes(bytes),
    );
    if case != 0 {
        sentence.push_str(": ended");
    }
    let mut rows = Vec::new();
    // What was told while it was stuck has its places already.
    if case == 0 {
        if let Some(made) = made {
            rows.push(Row::place("watched", made));
        }
        match spawned {
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
        let w = ended("task 3", verdict, Duration::from_millis(100), 2048, None, None, 7);
        assert_eq!(
            w.sentence,
            "one poll of task 3 took 151 ms, limit 100 ms; it allocated 2.0 KiB (#7): ended"
        );
    }
}
