//! The thread that samples what every other thread polls, and tells of polls that don't end.
//!
//! Started from ordinary code when async debug is on and a runtime is attached or a future wrapped; ends when it is switched off.
//! It blocks all signals, holds no lock over a fork (a child makes its own when next needed) and doesn't delay exit.

use std::collections::HashMap;
use std::sync::atomic::{
    AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use std::time::{Duration, Instant};

use super::super::heap::{self, ThreadInfo};
use super::super::judge::{PollFacts, SlowCallback};
use super::super::locks;
use super::super::poll::{Current, Published};
use super::super::reporter::spawn_ours;
use super::super::stuck::{Looker, Stuck};
use super::super::{clock, switch};
use super::proof::{Act, Seen, Track};
use super::{cell, cpu, hooks, next_case, say, words};

/// Polls and turns of a driver that were told while stuck and aren't over yet.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Something was told whose end will be, too.
pub(super) fn opened() {
    OPEN.fetch_add(1, AcqRel);
}

/// Its end was seen.
pub(super) fn closed() {
    OPEN.fetch_sub(1, AcqRel);
}

/// Waits until polls that were told are told as ended too, for a few samples at most: at exit.
pub(crate) fn settle() {
    let end = Instant::now() + step_of(switch::limit()) * 3;
    while OPEN.load(Acquire) != 0
        && switch::on()
        && OF.load(Acquire) == crate::sys::process_id()
        && Instant::now() < end
    {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The process that has a watchdog, else 0.
static OF: AtomicU32 = AtomicU32::new(0);

/// Nanoseconds that surely passed while there was a watchdog: not those in which the process was stopped or the machine suspended.
static SURE: AtomicU64 = AtomicU64::new(0);

/// Nanoseconds that were lost while there was a watchdog: the process was stopped, or the machine suspended.
static LOST: AtomicU64 = AtomicU64::new(0);
/// Ticks at which it looked last.
static LOOKED: AtomicU64 = AtomicU64::new(0);

/// What was lost so far.
#[inline]
pub(crate) fn lost() -> u64 {
    LOST.load(Relaxed)
}

fn lost_after(before: u64) -> Duration {
    Duration::from_nanos(LOST.load(Acquire).saturating_sub(before))
}

/// What was lost of a poll that began at `since` ticks, when `before` was, and ends now. Nothing where the watchdog is late: that
/// it hasn't looked for so long may be because of such a loss.
pub(crate) fn lost_since(before: u64, since: u64) -> Option<Duration> {
    let looked = LOOKED.load(Acquire);
    // Without a watchdog nobody counts, nor did before its first look.
    let counts = cfg!(native) && OF.load(Acquire) == crate::sys::process_id() && looked != 0;
    if !counts {
        return Some(Duration::ZERO);
    }
    let late = clock::span(clock::ticks().saturating_sub(looked.max(since)));
    (late <= step_of(switch::limit()) * 3).then(|| lost_after(before))
}

/// The same of a poll that ended at `end` ticks: waits for the watchdog to look again, for a second at most. On the reporter's thread.
pub(crate) fn lost_until(before: u64, end: u64) -> Duration {
    let most = Instant::now() + Duration::from_secs(1);
    while LOOKED.load(Acquire) < end && switch::on() && Instant::now() < most {
        std::thread::sleep(Duration::from_millis(1));
    }
    lost_after(before)
}

/// Measures what surely passed, by the watchdog's samples; of one that doesn't run nothing does.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "tokio-net"), allow(dead_code))]
pub(super) struct Stopwatch {
    since: Instant,
    sure: u64,
}

#[cfg_attr(not(feature = "tokio-net"), allow(dead_code))]
impl Stopwatch {
    pub(super) fn begin() -> Self {
        Self { since: Instant::now(), sure: SURE.load(Acquire) }
    }

    pub(super) fn passed(self) -> Duration {
        let sure = Duration::from_nanos(SURE.load(Acquire).saturating_sub(self.sure));
        // What passed since the last sample isn't counted yet.
        self.since.elapsed().min(sure + step_of(switch::limit()))
    }
}

/// How long a thread may take to answer the signal.
const ANSWER: Duration = Duration::from_millis(100);

/// Makes sure that this process has a watchdog. Ordinary code.
pub(crate) fn ensure() {
    let pid = crate::sys::process_id();
    let seen = OF.load(Acquire);
    if seen == pid || OF.compare_exchange(seen, pid, AcqRel, Acquire).is_err() {
        return;
    }
    clock::begin();
    if !spawn_ours("birthmark-watch", run) {
        OF.store(0, Release);
    }
}

fn run() {
    loop {
        let mut watchdog = Watchdog::new();
        LOOKED.store(clock::ticks(), Release);
        while switch::on() {
            watchdog.step();
        }
        watchdog.end();
        OF.store(0, Release);
        // Switched on again meanwhile, by somebody who still saw us?
        if !switch::on() || OF.compare_exchange(0, crate::sys::process_id(), AcqRel, Acquire).is_err() {
            return;
        }
    }
}

/// A tenth of the limit, not under 5 ms, so that a poll of 1.3 limits is always told.
fn step_of(limit: Duration) -> Duration {
    (limit / 10).max(Duration::from_millis(5))
}

/// What is kept of a thread between samples.
#[derive(Default)]
struct Watched {
    track: Track,
    /// At the last sample.
    spent: Option<cpu::Spent>,
    /// At the raise.
    allocated: u64,
    /// How long it is known to have taken.
    took: Duration,
    /// The report of the present proof.
    case: Option<Case>,
    /// The wrapped poll that was told, by its beginning, and its report.
    wrapped: u64,
    wrapped_case: Option<Case>,
    /// The wrapped poll that was seen last, and what the thread had run at first sight of it.
    seen: u64,
    ran: Duration,
    here: bool,
}

struct Case {
    number: u64,
    who: String,
    /// Told again over so many limits.
    next: u32,
}

impl Case {
    fn new(number: u64, who: String) -> Self {
        Self { number, who, next: 10 }
    }

    /// Tells again at ten and at a hundred limits.
    fn lasts(&mut self, exact: bool, took: Duration, limit: Duration, look: impl FnOnce() -> Option<Stuck>) {
        if self.next > 100 || took <= limit * self.next {
            return;
        }
        let Some(stuck) = look() else { return };
        while self.next <= 100 && took > limit * self.next {
            self.next *= 10;
        }
        say::still(self.number, &self.who, exact, took, limit, stuck);
    }

    fn over(self, exact: bool, took: Duration, limit: Duration) {
        say::over(self.number, &self.who, exact, took, limit);
        closed();
    }
}

struct Watchdog {
    start: Instant,
    last: Instant,
    next: Instant,
    own_tid: i32,
    own_waited: Duration,
    looker: Option<Looker>,
    threads: HashMap<(u32, i32), Watched>,
    /// Slots of threads that a fork left behind: what lies at their thread pointers is nobody's, or another thread's.
    gone: Vec<(u32, i32)>,
    coop_off: bool,
    busy: super::busy::Busy,
    turns: super::turns::Turns,
    pools: super::pool::Pools,
}

impl Watchdog {
    fn new() -> Self {
        let now = Instant::now();
        let own_tid = heap::thread_id();
        let mut gone = Vec::new();
        heap::threads(&mut |info| gone.push((info.slot, info.tid)));
        gone.retain(|(_, tid)| !cpu::exists(*tid));
        Self {
            start: now,
            last: now,
            next: now,
            own_tid,
            own_waited: cpu::waited(own_tid).unwrap_or_default(),
            looker: None,
            threads: HashMap::new(),
            gone,
            coop_off: heap::settings().coop_off,
            busy: super::busy::Busy::default(),
            turns: super::turns::Turns::default(),
            pools: super::pool::Pools::default(),
        }
    }

    /// Switched off: what is known of polls under way is told.
    fn end(&mut self) {
        for watched in self.threads.values_mut() {
            if let Some(case) = watched.case.take() {
                case.over(false, watched.took, switch::limit());
            }
        }
        self.turns.end(switch::limit());
    }

    fn step(&mut self) {
        let limit = switch::limit();
        let step = step_of(limit);
        self.next += step;
        let now = Instant::now();
        if self.next < now {
            self.next = now + step;
        }
        std::thread::sleep(self.next - now);
        let now = Instant::now();
        let overslept = now.saturating_duration_since(self.next);
        clock::limit_changed(switch::limit()); // it may have been changed meanwhile
        // Of the time between two samples only one step is sure (the process may have been stopped, the machine suspended), and
        // what this thread itself waited for a processor.
        let own = cpu::waited(self.own_tid).unwrap_or_default();
        let sure = step + own.saturating_sub(self.own_waited);
        let credit = (now - self.last).min(sure);
        SURE.fetch_add(credit.as_nanos() as u64, AcqRel);
        // It slept longer than it wanted to, and wasn't ready meanwhile. A virtual machine that shares its processors does so for
        // some ten milliseconds now and then, while others of its threads go on.
        let lost = overslept.saturating_sub(own.saturating_sub(self.own_waited));
        if lost > limit.max(step) {
            LOST.fetch_add(lost.as_nanos() as u64, AcqRel);
        }
        LOOKED.store(clock::ticks(), Release);
        self.own_waited = own;
        self.last = now;
        let mut infos = Vec::new();
        heap::threads(&mut |info| infos.push(info));
        for watched in self.threads.values_mut() {
            watched.here = false;
        }
        let mut busy = Vec::new();
        let mut exact = Vec::new();
        for info in infos {
            if info.tid == self.own_tid || self.gone.contains(&(info.slot, info.tid)) {
                continue;
            }
            let (seen, is_exact) = self.thread(info, now - self.start, sure, limit, step);
            if is_exact {
                exact.push(info.tid);
            }
            busy.push((info, seen));
        }
        self.threads.retain(|_, w| {
            if !w.here
                && let Some(case) = w.case.take()
            {
                case.over(true, w.took, limit); // the thread has ended, and the poll with it
            }
            w.here
        });
        let (id, budget) = words::found();
        let looker = &mut self.looker;
        let mut look = |tid| looker.get_or_insert_with(Looker::new).look(tid, ANSWER);
        // What hooks time needs no guess.
        let guessed: Vec<_> = busy.iter().filter(|(info, _)| !exact.contains(&info.tid)).copied().collect();
        self.busy.step(credit, limit, !(id && budget) || self.coop_off, &guessed, &mut look);
        self.turns.step(credit, limit, &busy, &self.busy, &mut look);
        self.pools.step(credit, limit, &busy, &mut look);
    }

    /// Samples one thread: what it polls, and whether a hook of tokio's times that.
    fn thread(
        &mut self,
        info: ThreadInfo,
        at: Duration,
        sure: Duration,
        limit: Duration,
        step: Duration,
    ) -> (Option<Seen>, bool) {
        let watched = self.threads.entry((info.slot, info.tid)).or_default();
        watched.here = true;
        // Before the words are read: what is counted had passed by then.
        let credit = match (watched.track.proof(), watched.spent) {
            (Some(_), Some(before)) => {
                let spent = cpu::Spent::of(info.tid);
                watched.spent = Some(spent);
                spent.since(before, sure)
            }
            _ => Duration::ZERO,
        };
        let Some(held) = heap::hold(info.slot).filter(|h| h.info.tid == info.tid) else {
            return (None, false);
        };
        let published = held.published();
        if published.is_ours() && watched.case.is_none() {
            (watched.track, watched.spent, watched.seen) = (Track::default(), None, 0);
            return (None, false);
        }
        let seen = words::read(&held);
        let current = published.current().filter(|current| goes_on(current, seen));
        let act = match seen {
            Some(seen) => watched.track.see(at, credit, seen, current.is_some() || self.coop_off),
            None => Act::Nothing,
        };
        if let (Act::Raise(to), Some(seen)) = (act, seen) {
            if words::raise(&held, seen, to) {
                watched.track.raised(at, seen.id, to);
                watched.allocated = held.info.allocated;
                drop(held);
                watched.spent = Some(cpu::Spent::of(info.tid));
            } else {
                watched.track.missed(at);
            }
            return (Some(seen), false);
        }
        drop(held);
        if let Act::Over { exact } = act
            && let Some(case) = watched.case.take()
        {
            case.over(exact, watched.took, limit);
        }
        if act == Act::Judge {
            let allocated = info.allocated.saturating_sub(watched.allocated);
            judge_proof(watched, &mut self.looker, &self.busy, info, allocated, limit, step);
        }
        if let Some(current) = current {
            judge_published(
                watched,
                &mut self.looker,
                &self.busy,
                info,
                published,
                current,
                limit,
                seen.map_or(current.hooked, |s| s.id),
            );
        }
        (seen, current.is_some_and(|current| current.hooked != 0))
    }
}

/// Whether a published poll surely goes on: of one that a hook began none may have told the end.
fn goes_on(current: &Current, seen: Option<Seen>) -> bool {
    current.hooked == 0 || hooks::is_trusted() || seen.is_some_and(|seen| seen.id == current.hooked)
}

/// A poll that is proved to go on: tells once.
fn judge_proof(
    watched: &mut Watched,
    looker: &mut Option<Looker>,
    busy: &super::busy::Busy,
    info: ThreadInfo,
    allocated: u64,
    limit: Duration,
    step: Duration,
) {
    let Some(proof) = watched.track.proof().copied() else { return };
    if proof.seen <= limit && watched.case.is_none() {
        return;
    }
    // Waits for a processor aren't in it.
    let facts = PollFacts { seen: proof.seen, waited: Duration::ZERO, maybe_two: proof.fell, step };
    let Some(verdict) = SlowCallback::judge(&facts, limit) else { return };
    watched.took = verdict.took;
    let mut look = || {
        let stuck = looker.get_or_insert_with(Looker::new).look(info.tid, ANSWER)?;
        // Is it still the same poll whose stack that is?
        heap::hold(info.slot)
            .filter(|h| h.info.tid == info.tid)
            .and_then(|h| words::read(&h))
            .is_some_and(|s| s.id == proof.id && s.budget.is_some_and(|b| b > super::proof::FULL))
            .then_some(stuck)
    };
    if let Some(case) = &mut watched.case {
        case.lasts(false, verdict.took, limit, look);
        return;
    }
    let Some(stuck) = look() else { return };
    watched.track.told();
    let number = next_case();
    let who = say::who(proof.id);
    opened();
    watched.case = Some(Case::new(number, who));
    say::stuck(say::StuckPoll {
        number,
        id: proof.id,
        wrapped: None,
        // Two samples of grace: the counters' times are counted otherwise than the poll's.
        still: busy.stands_still(verdict.took.saturating_sub(step * 2)),
        took: verdict.took,
        limit,
        exact: false,
        made: None,
        allocated,
        spawned: spawned(proof.id, &stuck, info.stack, 0),
        thread: cpu::name(info.tid),
        lock: locks::awaited_by(info.tid).map(|(tid, place)| (cpu::name(tid), place)),
        stuck,
        test: heap::hold(info.slot).map_or(0, |held| held.published().test()),
    });
}

/// A poll that a wrapper or a hook publishes: its time is exact.
#[allow(clippy::too_many_arguments)]
fn judge_published(
    watched: &mut Watched,
    looker: &mut Option<Looker>,
    busy: &super::busy::Busy,
    info: ThreadInfo,
    published: &'static Published,
    current: Current,
    limit: Duration,
    id: u64,
) {
    let delay = cpu::waited(info.tid).unwrap_or_default();
    let waited = delay.saturating_sub(published.note_wait(delay));
    let ran = cpu::ran(info.tid).unwrap_or_default();
    if watched.seen != current.since {
        (watched.seen, watched.ran) = (current.since, ran);
    }
    if limit.is_zero() || clock::quick(current.ticks) {
        return;
    }
    // The kernel counts a wait when it is over: while the thread is ready only what it ran is sure.
    let seen = if cpu::sleeps(info.tid) {
        clock::span(current.ticks).saturating_sub(lost_after(current.lost))
    } else {
        ran.saturating_sub(watched.ran) + waited
    };
    let facts = PollFacts { seen, waited, maybe_two: false, step: Duration::ZERO };
    let Some(verdict) = SlowCallback::judge(&facts, limit) else { return };
    let mut look = || {
        let stuck = looker.get_or_insert_with(Looker::new).look(info.tid, ANSWER)?;
        published.still(current.since).then_some(stuck) // else it ended meanwhile and tells itself
    };
    if watched.wrapped == current.since {
        if let Some(case) = &mut watched.wrapped_case {
            case.lasts(true, verdict.took, limit, look);
        }
        return;
    }
    let is_hooked = current.hooked != 0;
    // `block_in_place`, which holds nobody up, or a task that is `unconstrained`, which holds its worker?
    let is_in_place = is_hooked && in_place(info, current.since);
    if is_in_place && busy.stands_still(limit) != Some(true) {
        return; // its end will know
    }
    let Some(stuck) = look() else { return };
    let number = next_case();
    published.note_case(number);
    watched.wrapped = current.since;
    let who = if id == 0 { "a watched future".into() } else { say::who(id) };
    watched.wrapped_case = Some(Case::new(number, who));
    say::stuck(say::StuckPoll {
        number,
        id,
        wrapped: (!is_hooked).then_some(current.made),
        still: is_in_place.then_some(true),
        took: verdict.took,
        limit,
        exact: true,
        made: current.made.filter(|_| is_hooked && id == current.hooked),
        allocated: info.allocated.saturating_sub(u64::try_from(current.allocated).unwrap_or(0)),
        spawned: spawned(id, &stuck, info.stack, current.waker)
            .or_else(|| heap::stack_of(current.spawned).filter(|_| id == current.hooked)),
        thread: cpu::name(info.tid),
        lock: locks::awaited_by(info.tid).map(|(tid, place)| (cpu::name(tid), place)),
        stuck,
        test: heap::hold(info.slot).map_or(0, |held| held.published().test()),
    });
}

/// Whether the poll that a thread published is without a budget now.
fn in_place(info: ThreadInfo, since: u64) -> bool {
    let held = heap::hold(info.slot).filter(|held| held.info.tid == info.tid);
    held.is_some_and(|held| {
        held.published().still(since) && words::read(&held).is_some_and(|seen| seen.budget.is_none())
    })
}

/// The stack that spawned task `id`: its cell lies on the stack of its own poll, or among the recorded blocks.
fn spawned(id: u64, stuck: &Stuck, stack: (usize, usize), waker: usize) -> Option<Vec<usize>> {
    if waker != 0
        && let Some(trace) = heap::trace_of(waker)
    {
        return Some(trace);
    }
    let cell = cell::on_stack(stuck.words.iter().copied(), stack, id).or_else(|| cell::among_blocks(id))?;
    heap::trace_of(cell)
}
