//! The thread that samples what every other thread polls, and tells of polls that don't end.
//!
//! Started from ordinary code when async debug is on and a runtime is attached or a future wrapped; ends when it is switched off.
//! It blocks all signals, holds no lock over a fork (a child makes its own when next needed) and doesn't delay exit.

use std::collections::HashMap;
use std::sync::atomic::{
    AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Release},
};
use std::time::{Duration, Instant};

use super::super::heap::{self, ThreadInfo};
use super::super::judge::{PollFacts, SlowCallback};
use super::super::locks;
use super::super::poll::{Current, Published};
use super::super::reporter::spawn_ours;
use super::super::stuck::{Looker, Stuck};
use super::super::{clock, switch};
use super::nap::nap;
use super::pace::{Pace, step_of};
use super::proof::{Act, Seen, Track};
use super::rest::Rest;
use super::waits::Found;
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

/// How many samples there were.
static SAMPLES: AtomicU64 = AtomicU64::new(0);

/// Waits until polls that were told are told as ended too, for a few samples at most: at exit.
pub(crate) fn settle() {
    // On a busy machine they come late.
    let (step, begun) = (step_of(switch::limit()), SAMPLES.load(Acquire));
    let end = Instant::now() + step * 3 * 20;
    while OPEN.load(Acquire) != 0
        && switch::on()
        && OF.load(Acquire) == crate::sys::process_id()
        && SAMPLES.load(Acquire).wrapping_sub(begun) <= 3
        && Instant::now() < end
    {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The process that has a watchdog, else 0.
static OF: AtomicU32 = AtomicU32::new(0);

/// Of what a clock says of a span that began when [`clock::unsure`] said this, what surely passed: the process may have been stopped
/// meanwhile. All of it in a process without a watchdog.
pub(crate) fn surely(seen: Duration, unsure: u64) -> Duration {
    if OF.load(Acquire) != crate::sys::process_id() {
        return seen;
    }
    let unsure = clock::unsure_since(unsure);
    // A sleep lasts a little longer than asked, which isn't sure.
    if unsure <= seen / 10 { seen } else { seen.saturating_sub(unsure) }
}

/// Measures what surely passed, by the watchdog's samples; all of it where there is none.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "tokio-net"), allow(dead_code))]
pub(super) struct Stopwatch {
    since: Instant,
    unsure: u64,
}

#[cfg_attr(not(feature = "tokio-net"), allow(dead_code))]
impl Stopwatch {
    pub(super) fn begin() -> Self {
        Self { since: Instant::now(), unsure: clock::unsure(clock::ticks()) }
    }

    pub(super) fn passed(self) -> Duration {
        self.since.elapsed().saturating_sub(clock::unsure_since(self.unsure))
    }
}

/// A sleep that lasts so much longer than asked is no sleep's own lateness.
const LATE: Duration = Duration::from_millis(1);

/// Of so many threads the file that tells what they ran and waited is kept open, if they poll.
const KEPT: usize = 32;

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
    clock::looked(Duration::ZERO, clock::ticks(), step_of(switch::limit()));
    if !spawn_ours("birthmark-watch", run) {
        clock::unwatched();
        OF.store(0, Release);
    }
}

fn run() {
    loop {
        let mut watchdog = Watchdog::new();
        while switch::on() {
            watchdog.step();
        }
        watchdog.end();
        clock::unwatched();
        OF.store(0, Release);
        // Switched on again meanwhile, by somebody who still saw us?
        if !switch::on() || OF.compare_exchange(0, crate::sys::process_id(), AcqRel, Acquire).is_err() {
            return;
        }
    }
}

/// What is kept of a thread between samples.
#[derive(Default)]
struct Watched {
    track: Track,
    /// At the last sample.
    spent: Option<cpu::Spent>,
    /// At the raise.
    allocated: u64,
    /// The first sample of workers after it.
    raised: u64,
    /// How long it is known to have taken.
    took: Duration,
    /// The report of the present proof.
    case: Option<Case>,
    /// The wrapped poll that was told, by its beginning, and its report.
    wrapped: u64,
    wrapped_case: Option<Case>,
    /// The wrapped poll that was seen last, and what the thread had run when it began, or at first sight of it.
    seen: u64,
    ran: Duration,
    /// The first sample of workers after that.
    seen_at: u64,
    /// At the last sample, where it was in no such poll, or in another one.
    before: Option<Before>,
    counts: Option<cpu::Kept>,
    /// Whether that stays open.
    keeps: bool,
    here: bool,
}

/// What the kernel had counted of a thread at a sample that can't have seen its present poll.
struct Before {
    /// What it had run; while it runs no further nothing else changes either.
    ran: Option<Duration>,
    waited: Duration,
}

impl Before {
    /// What the kernel had counted when a poll began that has lasted for `span` now: of what was counted meanwhile first the waits lie in
    /// it, then what it ran, as far as there was time.
    fn begun(&self, now: cpu::Counts, span: Duration) -> cpu::Counts {
        let waited = self.waited.max(now.waited.saturating_sub(span));
        let left = span.saturating_sub(now.waited.saturating_sub(waited));
        let ran = self.ran.unwrap_or(now.ran).max(now.ran.saturating_sub(left));
        cpu::Counts { ran, waited, ..now }
    }
}

impl Watched {
    fn counts(&mut self, tid: i32) -> Option<cpu::Counts> {
        match &mut self.counts {
            None if !self.keeps => cpu::counts(tid),
            kept => {
                let counts = kept.get_or_insert_with(|| cpu::Kept::of(tid)).counts();
                if counts.is_none() {
                    *kept = None; // there was no room for another file just then, or it is of a thread that has ended
                }
                counts.or_else(|| cpu::counts(tid))
            }
        }
    }

    /// The thread is in no poll that tells of itself.
    fn idles(&mut self, tid: i32) {
        if self.seen == 0 {
            return; // it has never been in one
        }
        let ran = cpu::clock(tid);
        if ran.is_none() || self.before.as_ref().is_none_or(|before| before.ran != ran) {
            let waited = self.counts(tid).unwrap_or_default().waited;
            self.before = Some(Before { ran, waited });
        }
    }
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

/// A poll that is to be raised to a value, if it is still as it was seen.
struct Raise {
    info: ThreadInfo,
    seen: Seen,
    /// When the poll began that its thread publishes; one that polls others may.
    published: Option<u64>,
    to: u8,
}

struct Watchdog {
    start: Instant,
    /// The last sample, by both clocks.
    last: (Instant, u64),
    next: Instant,
    own_tid: i32,
    own_counts: cpu::Kept,
    /// When it was last asked.
    own_waited: Duration,
    pace: Pace,
    rest: Rest,
    /// What surely passed since all was looked at.
    credit: Duration,
    /// What the poll that is next to it still lacks to the limit.
    due: Option<Duration>,
    /// Polls that are to be raised when all else of this sample is done: most have ended by then.
    raises: Vec<Raise>,
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
        let last = clock::moment();
        let now = last.0;
        let own_tid = heap::thread_id();
        let own_counts = cpu::Kept::of(own_tid);
        let mut gone = Vec::new();
        heap::threads(&mut |info| gone.push((info.slot, info.tid)));
        gone.retain(|(_, tid)| !cpu::exists(*tid));
        Self {
            start: now,
            last,
            next: now,
            own_tid,
            own_waited: own_counts.counts().unwrap_or_default().waited,
            pace: Pace::default(),
            rest: Rest::default(),
            credit: Duration::ZERO,
            due: None,
            raises: Vec::new(),
            own_counts,
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
        let pause = self.pace.pause(limit, self.due.take());
        self.next += pause;
        let now = Instant::now();
        if self.next < now {
            self.next = now + pause;
        }
        // What this thread did meanwhile, and then slept as asked, surely passed, and what it waited for a processor: not more, since
        // the process may have been stopped, the machine suspended. What it did is little but where it waits itself, for an answer.
        let sure = (now - self.last.0).min(limit / 2) + (self.next - now);
        clock::looked(Duration::ZERO, self.last.1, sure);
        let was_stopped = nap(self.next - now);
        let last = clock::moment();
        let now = last.0;
        let leave_out = |info: &ThreadInfo| is_left_out(info, self.own_tid, &self.gone);
        let goes_on =
            (self.pace == Pace::Rests).then(|| self.rest.goes_on(&mut self.turns, &leave_out)).flatten();
        let gap = clock::between(self.last, last);
        let mut sure = sure;
        if was_stopped {
            (sure, self.next) = (Duration::ZERO, now);
        }
        if goes_on.is_none() || gap > sure + LATE {
            let waited = self.own_counts.counts().unwrap_or_default().waited;
            let before = std::mem::replace(&mut self.own_waited, waited);
            sure += self.own_waited.saturating_sub(before);
        }
        let credit = gap.min(sure);
        clock::looked(gap - credit, last.1, step);
        self.last = last;
        SAMPLES.fetch_add(1, AcqRel);
        self.credit += credit;
        if let Some(found) = goes_on {
            if found == Found::Moves {
                self.threads
                    .values_mut()
                    .filter_map(|w| w.before.as_mut())
                    .for_each(|before| before.ran = None);
            }
            return;
        }
        let since_last = credit;
        let credit = std::mem::take(&mut self.credit);
        clock::limit_changed(switch::limit()); // it may have been changed meanwhile
        let mut infos = Vec::new();
        heap::threads(&mut |info| infos.push(info));
        for watched in self.threads.values_mut() {
            watched.here = false;
        }
        self.raises.clear();
        let mut busy = Vec::new();
        let mut exact = Vec::new();
        let mut polls = false;
        for info in infos {
            if is_left_out(&info, self.own_tid, &self.gone) {
                continue;
            }
            let (seen, current) = self.thread(info, now - self.start, sure, limit, step);
            if current.is_some_and(|current| current.hooked != 0) {
                exact.push(info.tid);
            }
            polls |= current.is_some() || seen.is_some_and(|seen| seen.budget.is_some());
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
        self.turns.step((credit, since_last), limit, &busy, &self.busy, &mut look);
        self.pools.step(credit, limit, &busy, &mut look);
        let mut lasts = self.lasts(limit);
        // Where the sample before raised some and all of them are over, the next are raised after a longer sleep.
        if lasts || self.pace != Pace::Long {
            lasts |= self.raise(now - self.start);
        }
        let rests = !polls && !lasts && self.busy.rests(limit) && self.turns.rest() && self.pools.rest();
        self.pace = match (lasts, rests) {
            (true, _) => Pace::Long,
            (_, true) => Pace::Rests,
            _ => Pace::Short,
        };
        if rests {
            self.rest.begin(busy);
        }
    }

    /// Whether something is to be looked at soon: a poll that is being proved, or one that was told, or a turn of a driver.
    fn lasts(&self, limit: Duration) -> bool {
        let lasts = |watched: &Watched| watched.case.is_some() || watched.track.proof().is_some();
        self.turns.lasts() || self.busy.lasts(limit) || self.threads.values().any(lasts)
    }

    /// Raises the polls that this sample began with and that still go on; whether there is one.
    fn raise(&mut self, at: Duration) -> bool {
        let mut raised = false;
        for Raise { info, seen, published, to } in self.raises.drain(..) {
            let Some(held) = heap::hold(&info) else { continue };
            let Some(watched) = self.threads.get_mut(&(info.slot, info.tid)) else { continue };
            if held.published().current().map(|current| current.since) != published {
                continue; // another poll has begun or ended in it, which tells of itself
            }
            match words::raise(&held, seen, to) {
                Some(true) => {
                    raised = true;
                    watched.track.raised(at, seen.id, to);
                    watched.allocated = held.info.allocated;
                    watched.raised = self.busy.samples() + 1;
                    drop(held);
                    watched.spent = Some(cpu::Spent::begin(info.tid, watched.counts(info.tid)));
                }
                Some(false) => watched.track.missed(at),
                None => {}
            }
        }
        raised
    }

    /// Samples one thread: what it polls, and the poll that it tells of itself.
    fn thread(
        &mut self,
        info: ThreadInfo,
        at: Duration,
        sure: Duration,
        limit: Duration,
        step: Duration,
    ) -> (Option<Seen>, Option<Current>) {
        let keeps = self.threads.len() < KEPT;
        let watched = self.threads.entry((info.slot, info.tid));
        let watched = watched.or_insert_with(|| Watched { keeps, ..Watched::default() });
        watched.here = true;
        let Some(held) = heap::hold(&info) else {
            return (None, None);
        };
        let published = held.published();
        if published.is_ours() && watched.case.is_none() {
            (watched.track, watched.spent, watched.seen, watched.before) = Default::default();
            return (None, None);
        }
        let current = published.current();
        let since = current.map(|current| current.since);
        let mut seen = words::read(&held);
        drop(held);
        let mut credit = Duration::ZERO;
        if let (Some(first), Some(before)) = (seen, watched.spent)
            && watched.track.goes_on(first)
        {
            let spent = cpu::Spent::counted(info.tid, || watched.counts(info.tid));
            watched.spent = Some(spent);
            credit = spent.since(before, sure);
            // In this order: what is counted had passed by then.
            seen = words::of(&info);
        }
        if current.is_none() {
            watched.idles(info.tid);
        }
        let current = current
            .filter(|current| !hosts(published, current, seen))
            .filter(|current| goes_on(current, seen));
        let act = match seen {
            Some(seen) => watched.track.see(at, credit, seen),
            None => Act::Nothing,
        };
        if current.is_none()
            && !self.coop_off
            && let (Some(seen), Some(to)) = (seen, watched.track.raise())
        {
            self.raises.push(Raise { info, seen, published: since, to });
        }
        if let Act::Over { exact } = act
            && let Some(case) = watched.case.take()
        {
            case.over(exact, watched.took, limit);
        }
        if let Some(proof) = watched.track.proof()
            && watched.case.is_none()
        {
            due(&mut self.due, limit, proof.seen);
        }
        if act == Act::Judge {
            let allocated = info.allocated.saturating_sub(watched.allocated);
            judge_proof(watched, &mut self.looker, &self.busy, info, allocated, limit, step);
        }
        if let Some(current) = current {
            due(&mut self.due, limit, clock::span(current.ticks));
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
        (seen, current)
    }
}

/// Whether a thread is the watchdog's own, or one that a fork left behind.
fn is_left_out(info: &ThreadInfo, own_tid: i32, gone: &[(u32, i32)]) -> bool {
    info.tid == own_tid || gone.contains(&(info.slot, info.tid))
}

/// Notes what a poll that has taken so long still lacks to the limit, where that is least.
fn due(least: &mut Option<Duration>, limit: Duration, took: Duration) {
    if let Some(lacks) = limit.checked_sub(took).filter(|lacks| !lacks.is_zero()) {
        *least = Some(least.map_or(lacks, |least| least.min(lacks)));
    }
}

/// Whether this poll polls other tasks inside, as that of a `LocalSet`'s owner does: then its time says nothing of one of
/// them, nor of itself, and what they take is proved as if nothing were wrapped. `seen` after `current`.
fn hosts(published: &Published, current: &Current, seen: Option<Seen>) -> bool {
    if let (Some(own), Some(seen)) = (current.task, seen)
        && seen.id != own
        && published.still(current.since)
    {
        published.note_host(current.since);
    }
    published.is_host()
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
        words::of(&info)
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
        still: busy.stands_still(watched.raised),
        took: verdict.took,
        limit,
        exact: false,
        made: None,
        allocated,
        spawned: spawned(proof.id, &stuck, info.stack, 0),
        thread: cpu::name(info.tid),
        lock: locks::awaited_by(info.tid).map(|(tid, place)| (cpu::name(tid), place)),
        stuck,
        test: heap::hold(&info).map_or(0, |held| held.published().test()),
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
    if watched.seen != current.since {
        let now = watched.counts(info.tid).unwrap_or_default();
        let before = watched.before.replace(Before { ran: Some(now.ran), waited: now.waited });
        let begun = before.map_or(now, |before| before.begun(now, clock::span(current.ticks)));
        published.note_wait(begun.waited);
        (watched.seen, watched.ran, watched.seen_at) = (current.since, begun.ran, busy.samples() + 1);
    }
    if limit.is_zero() || clock::quick(current.ticks) {
        return;
    }
    let now = cpu::Spent::counted(info.tid, || watched.counts(info.tid));
    let waited = now.counts.waited.saturating_sub(published.note_wait(now.counts.waited));
    // The kernel counts a wait when it is over: while the thread is ready only what it ran is sure.
    let seen = if now.sleeps {
        surely(clock::span(current.ticks), current.unsure)
    } else {
        now.counts.ran.saturating_sub(watched.ran) + waited
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
    if is_in_place && busy.stands_still(watched.seen_at) != Some(true) {
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
        test: heap::hold(&info).map_or(0, |held| held.published().test()),
    });
}

/// Whether the poll that a thread published is without a budget now.
fn in_place(info: ThreadInfo, since: u64) -> bool {
    let held = heap::hold(&info);
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

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn counts(ran: u32, waited: u32) -> cpu::Counts {
        cpu::Counts { ran: MS * ran, waited: MS * waited, runs: 0 }
    }

    fn begun(before: (u32, u32), now: (u32, u32), span: u32) -> (Duration, Duration) {
        let before = Before { ran: Some(MS * before.0), waited: MS * before.1 };
        let begun = before.begun(counts(now.0, now.1), MS * span);
        (begun.ran, begun.waited)
    }

    #[test]
    fn what_a_thread_ran_and_waited_before_a_poll_that_is_seen_late_isnt_the_polls() {
        assert_eq!(begun((10, 5), (40, 5), 30), (MS * 10, MS * 5), "it ran all the while");
        assert_eq!(begun((10, 5), (60, 5), 30), (MS * 30, MS * 5), "20 were before the poll");
        assert_eq!(begun((10, 5), (30, 15), 30), (MS * 10, MS * 5), "and waited 10 of it");
        assert_eq!(begun((10, 5), (60, 15), 30), (MS * 40, MS * 5), "of 50 it can't have run more than 20");
        assert_eq!(begun((10, 5), (10, 95), 30), (MS * 10, MS * 65), "60 were waited before the poll");
    }
}
