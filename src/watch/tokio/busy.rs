//! `worker-busy`: the fallback where polls can't be told apart, from tokio's own counters.
//!
//! A worker's busy counter moves when it parks and every 61 ticks; where it stands still while the worker isn't parked, the worker
//! is in one long poll or in a few dozen that are long together. So it says no more than that, and never names a task
//! that it doesn't know.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::tokio::runtime::Handle;

use super::super::heap::{self, Named, ThreadInfo};
use super::super::reporter;
use super::super::stuck::Stuck;
use super::super::switch;
use super::super::warning::{Kind, Row, Warning};
use super::context::{self, Holds};
use super::proof::Seen;
use super::{cpu, say, words, words_of_time};

/// The attached runtimes.
static RUNTIMES: Mutex<Vec<(u64, Handle, Option<u64>)>> = Mutex::new(Vec::new());

/// Keeps a runtime's counters in sight: a number to [`forget`] it by.
pub(crate) fn remember(handle: &Handle) -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let _ours = heap::ours();
    let owner = if switch::on() { super::shutdown::owner(handle) } else { None };
    if let Ok(mut all) = RUNTIMES.try_lock() {
        all.push((number, handle.clone(), owner));
    }
    number
}

/// Tasks of ours that haven't ended.
static OUR_ALIVE: AtomicUsize = AtomicUsize::new(0);

/// Lives in a task of ours.
#[derive(Debug)]
pub(crate) struct Ours(());

impl Ours {
    pub(crate) fn begin() -> Self {
        OUR_ALIVE.fetch_add(1, Relaxed);
        Self(())
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        OUR_ALIVE.fetch_sub(1, Relaxed);
    }
}

/// How many tasks of ours haven't ended.
pub(crate) fn our_alive() -> usize {
    OUR_ALIVE.load(Relaxed)
}

/// Visits the attached runtimes: how many tasks of the program's are alive on each, and whose list they are in, where that is known.
pub(crate) fn runtimes(visit: &mut dyn FnMut(usize, Option<u64>)) {
    if let Ok(all) = RUNTIMES.try_lock() {
        for (_, handle, owner) in all.iter() {
            let sentinels = owner.map_or(0, super::shutdown::sentinels);
            visit(handle.metrics().num_alive_tasks().saturating_sub(sentinels), *owner);
        }
    }
}

/// The runtime is about to be dropped.
pub(crate) fn forget(number: u64) {
    let gone = {
        let mut all = RUNTIMES.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().position(|(n, ..)| *n == number).map(|i| all.swap_remove(i))
    };
    drop(gone);
}

/// The attached runtimes.
pub(crate) fn handles() -> Vec<Handle> {
    let all = RUNTIMES.lock().unwrap_or_else(PoisonError::into_inner);
    all.iter().map(|(_, handle, _)| handle.clone()).collect()
}

/// The attached runtimes with their numbers, each once; none where somebody else has them just now.
pub(crate) fn numbered() -> Vec<(u64, Handle)> {
    let Ok(all) = RUNTIMES.try_lock() else { return Vec::new() };
    let mut numbered: Vec<(u64, Handle)> = Vec::new();
    for (number, handle, _) in all.iter() {
        if numbered.iter().all(|(_, other)| super::bound::is_other(other, handle)) {
            numbered.push((*number, handle.clone()));
        }
    }
    numbered
}

/// One worker as its counters tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Worker {
    busy: Duration,
    parks: u64,
}

#[derive(Debug)]
struct Still {
    key: (u64, usize),
    worker: Worker,
    /// The first sample in which the counters may have read so; 0: they never were seen otherwise.
    since: u64,
    for_long: Duration,
    /// How often threads were looked at.
    looks: u8,
    told: Arc<AtomicBool>,
}

/// So often for each standstill, since an idle worker may look like the busy one until names are known.
const LOOKS: u8 = 4;

impl Worker {
    /// Or its core was taken along by `block_in_place`.
    fn is_parked(self) -> bool {
        self.parks % 2 == 1
    }
}

impl Still {
    /// Whether it was told, or is looked at no more.
    fn is_done(&self) -> bool {
        self.looks == LOOKS || self.told.load(Relaxed)
    }
}

/// How long each worker's counters have stood still.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    all: Vec<Still>,
    /// How many samples were asked for, and the last that was taken.
    samples: u64,
    taken: u64,
    /// Threads that poll without a budget, or all where budgets tell nothing.
    same: Vec<Same>,
}

/// Whether a worker that stood still for so long is busy: twice the limit, since several polls may lie within.
fn is_busy(worker: Worker, for_long: Duration, limit: Duration) -> bool {
    !worker.is_parked() && for_long > limit * 2
}

impl Busy {
    /// A sample: `blind` where polls can't be told apart at all, else only tasks without a budget are looked at.
    pub(crate) fn step(
        &mut self,
        credit: Duration,
        limit: Duration,
        blind: bool,
        threads: &[(ThreadInfo, Option<Seen>)],
        look: &mut dyn FnMut(i32) -> Option<Stuck>,
    ) {
        if super::shutdown::counts() {
            // It is we who hold a worker up.
            *self = Self { samples: self.samples + 1, taken: self.samples + 1, ..Self::default() };
            return;
        }
        self.sample(credit);
        self.threads(credit, threads, blind);
        for still in &mut self.all {
            if still.is_done() || !is_busy(still.worker, still.for_long, limit) {
                continue;
            }
            // The thread: one that polls the same task for long, but not since before the worker stood still, and whose stack says
            // that it holds a worker. (Counters stand still in a runtime that has ended, too.)
            let (least, most) = (limit * 2, still.for_long + credit * 2);
            let candidates: Vec<Candidate> = self
                .same
                .iter()
                .filter(|s| match s.id {
                    None => true,
                    Some(id) => (blind || id != 0) && s.spent >= least && s.seen <= most,
                })
                .filter_map(|s| {
                    let stuck = look(s.info.tid)?;
                    // Between two polls a worker shows an id too, its own; the stack may be of a poll that has just begun. In a
                    // system call the thread doesn't tell.
                    let polls = || stuck.polls.or_else(|| words::of(&s.info).map(|seen| seen.id));
                    let other = s.id.is_some_and(|id| polls().is_some_and(|now| now != id));
                    // An idle worker looks the same for as long; its symbols mostly tell.
                    let (holds, inside) = holds_by(&heap::symbols(&stuck.stack), &stuck);
                    let idle = holds == Holds::Worker && !inside;
                    (!other && !idle).then(|| Candidate {
                        thread: cpu::name(s.info.tid),
                        id: s.id.unwrap_or(0),
                        stuck,
                    })
                })
                .collect();
            if candidates.is_empty() {
                continue; // a poll with a budget, which is told otherwise
            }
            still.looks += 1;
            let (worker, long, written) = (still.key.1, still.for_long, Arc::clone(&still.told));
            reporter::later(Box::new(move || {
                if written.load(Relaxed) {
                    return None;
                }
                let warning = told(worker, long, limit, candidates, blind);
                written.store(warning.is_some(), Relaxed);
                warning
            }));
        }
    }

    /// Whether every worker was parked at the last sample, or hasn't moved for long: it has ended, or nobody runs its runtime now.
    pub(crate) fn rests(&self, limit: Duration) -> bool {
        self.all.iter().all(|s| s.worker.is_parked() || s.for_long > limit * 10)
    }

    /// Whether a worker has stood still for so long that it may be told.
    pub(crate) fn lasts(&self, limit: Duration) -> bool {
        let lasts = |still: &Still| {
            !still.worker.is_parked() && (limit..limit * 10).contains(&still.for_long) && !still.is_done()
        };
        self.all.iter().any(lasts)
    }

    /// The number of the last sample.
    pub(crate) fn samples(&self) -> u64 {
        self.samples
    }

    /// Whether some worker of the attached runtimes has stood still, unparked, since that sample; nothing where none is attached.
    pub(crate) fn stands_still(&self, since: u64) -> Option<bool> {
        (!self.all.is_empty()).then(|| self.all.iter().any(|s| !s.worker.is_parked() && s.since <= since))
    }

    /// Whether every worker of the attached runtimes has been parked since that sample; never where none is attached.
    pub(crate) fn all_parked(&self, since: u64) -> bool {
        !self.all.is_empty() && self.all.iter().all(|s| s.worker.is_parked() && s.since <= since)
    }

    fn sample(&mut self, credit: Duration) {
        self.samples += 1;
        let Ok(runtimes) = RUNTIMES.try_lock() else { return };
        let since = self.taken + 1;
        self.taken = self.samples;
        self.all.retain(|s| runtimes.iter().any(|(n, ..)| *n == s.key.0));
        for (number, handle, _) in runtimes.iter() {
            let metrics = handle.metrics();
            for i in 0..metrics.num_workers() {
                let worker = Worker {
                    busy: metrics.worker_total_busy_duration(i),
                    parks: metrics.worker_park_unpark_count(i),
                };
                match self.all.iter_mut().find(|s| s.key == (*number, i)) {
                    Some(still) if still.worker == worker => still.for_long += credit,
                    Some(still) => {
                        *still = Still {
                            key: still.key,
                            worker,
                            since,
                            for_long: Duration::ZERO,
                            looks: 0,
                            told: Arc::default(),
                        }
                    }
                    None => {
                        self.all.push(Still {
                            key: (*number, i),
                            worker,
                            since: 0,
                            for_long: Duration::ZERO,
                            looks: 0,
                            told: Arc::default(),
                        });
                    }
                }
            }
        }
    }

    fn threads(&mut self, credit: Duration, threads: &[(ThreadInfo, Option<Seen>)], blind: bool) {
        let before = std::mem::take(&mut self.same);
        // Nobody asks for threads while every worker goes on.
        if !self.all.iter().any(|s| !s.worker.is_parked() && !s.for_long.is_zero()) {
            return;
        }
        for (info, seen) in
            threads.iter().filter(|(_, seen)| blind || seen.is_some_and(|s| s.budget.is_none()))
        {
            let id = seen.map(|s| s.id);
            let same = before.iter().find(|s| s.info.tid == info.tid && s.id == id);
            // What it waits for a processor is no part of its poll. (Where nothing tells threads apart there may be many, and their
            // time is the sampler's.)
            let at = id.filter(|id| *id != 0).map(|_| cpu::Spent::of(info.tid));
            let (mut seen, mut spent) = (Duration::ZERO, Duration::ZERO);
            if let Some(same) = same {
                seen = same.seen + credit;
                spent = same.spent
                    + match (at, same.at) {
                        (Some(now), Some(before)) => now.since(before, credit),
                        (Some(_), None) => Duration::ZERO,
                        (None, _) => credit,
                    };
            }
            self.same.push(Same { info: *info, id, seen, spent, at });
        }
    }
}

/// A thread that polls the same task, as far as samples tell.
#[derive(Debug)]
struct Same {
    info: ThreadInfo,
    /// Nothing where the words weren't found.
    id: Option<u64>,
    /// For how long it was seen so.
    seen: Duration,
    /// How much of it wasn't a wait for a processor.
    spent: Duration,
    at: Option<cpu::Spent>,
}

/// A thread that may be the busy worker's.
struct Candidate {
    /// Its name; read at once, since it may end before the report is written.
    thread: String,
    id: u64,
    stuck: Stuck,
}

/// What a stack with these names holds, and whether it polls a task there.
fn holds_by(names: &[Named], stuck: &Stuck) -> (Holds, bool) {
    let (holds, inside) = context::holds(names, stuck.complete);
    (holds, context::polls_a_task(names.get(..inside).unwrap_or(names)))
}

/// The last judgement, with names: on the reporter's thread.
fn told(
    worker: usize,
    long: Duration,
    limit: Duration,
    candidates: Vec<Candidate>,
    blind: bool,
) -> Option<Warning> {
    let mut holding: Vec<Candidate> = candidates
        .into_iter()
        // An idle worker polls nothing, whatever it waits in; at the runtime's end it drops what is left.
        .filter(|c| {
            let names = heap::names(&c.stuck.stack);
            holds_by(&names, &c.stuck) == (Holds::Worker, true) && !context::only_cancels(&names)
        })
        .collect();
    if holding.is_empty() {
        return None;
    }
    let only = holding.pop().filter(|_| holding.is_empty()); // which of several it is nothing tells
    Some(words(worker, long, limit, only.map(|c| (c.thread, c.id, c.stuck.shown())), blind))
}

fn words(
    worker: usize,
    long: Duration,
    limit: Duration,
    place: Option<(String, u64, Vec<usize>)>,
    blind: bool,
) -> Warning {
    let mut sentence = format!(
        "worker {worker} hasn't come back to its queue for {}, limit {}: one slow poll, or a few that are slow together",
        words_of_time(long),
        words_of_time(limit)
    );
    let mut rows = Vec::new();
    if let Some((thread, id, stack)) = place {
        if id != 0 {
            sentence.push_str(&format!("; it polls {}", say::who(id)));
        }
        rows.push(Row::stack("busy in", stack).noted(thread));
    }
    let why = if blind {
        "polls can't be told apart in this program; a future given to `birthmark::watched` is timed exactly"
    } else {
        "an `unconstrained` task can't be timed from outside; `.watched()` times it exactly"
    };
    rows.push(Row::words("help", why.into()));
    Warning::new(Kind::WorkerBusy, sentence, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn still(parks: u64, since: u64) -> Still {
        Still {
            key: (1, 0),
            worker: Worker { busy: MS, parks },
            since,
            for_long: MS,
            looks: 0,
            told: Arc::default(),
        }
    }

    #[test]
    fn a_worker_stands_still_while_its_counters_do_and_it_isnt_parked() {
        let busy = |all| Busy { all, ..Busy::default() };
        assert_eq!(busy(vec![]).stands_still(9), None);
        assert_eq!(busy(vec![still(4, 9)]).stands_still(9), Some(true));
        assert_eq!(busy(vec![still(4, 0)]).stands_still(9), Some(true), "it was never seen otherwise");
        assert_eq!(busy(vec![still(5, 1), still(4, 10)]).stands_still(9), Some(false));
    }

    #[test]
    fn all_are_parked_where_no_counter_has_changed_since() {
        let busy = |all| Busy { all, ..Busy::default() };
        assert!(!busy(vec![]).all_parked(9));
        assert!(busy(vec![still(5, 9), still(3, 0)]).all_parked(9));
        assert!(!busy(vec![still(5, 9), still(4, 0)]).all_parked(9));
        assert!(!busy(vec![still(5, 10)]).all_parked(9));
    }

    #[test]
    fn a_parked_worker_is_never_busy() {
        let worker = |parks| Worker { busy: MS * 5, parks };
        assert!(is_busy(worker(4), MS * 201, MS * 100));
        assert!(!is_busy(worker(5), MS * 900, MS * 100));
        assert!(!is_busy(worker(4), MS * 200, MS * 100));
    }
}
