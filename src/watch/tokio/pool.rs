//! `pool-starved`: a blocking pool whose threads are all held by jobs that don't end, so that others wait in its queue: files, look-ups
//! of names, `spawn_blocking`.
//!
//! How many wait isn't told on stable tokio. Where a thread has been in one blocking job for longer than a poll may take, a job of our
//! own that does nothing is handed to the pool, at most one a second for each runtime; that it isn't begun for longer than the
//! limit is the proof. What the threads are in tells why.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU8,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::Duration;

use super::super::heap::{self, Named, ThreadInfo};
use super::super::reporter;
use super::super::stuck::Stuck;
use super::super::verdict::Case;
use super::super::warning::{Kind, Row, Warning};
use super::context::{self, Holds};
use super::proof::Seen;
use super::{busy, cpu, next_case, shutdown, words_of_time};

/// A runtime is asked again after so long.
const PAUSE: Duration = Duration::from_secs(1);
/// So many threads are looked at.
const LOOKS: usize = 16;
/// So many different stacks are shown.
const SHOWN: usize = 3;

const QUEUED: u8 = 0;
const RAN: u8 = 1;
const LOST: u8 = 2;

/// Our own job in a pool's queue.
pub(super) struct Canary(Arc<AtomicU8>);

impl Canary {
    pub(super) fn run(self) {
        self.0.store(RAN, Release);
    }
}

/// The runtime ends before it was begun.
impl Drop for Canary {
    fn drop(&mut self) {
        let _ = self.0.compare_exchange(QUEUED, LOST, Release, Relaxed);
    }
}

#[derive(Default)]
pub(crate) struct Pools {
    /// The job that each thread is in, and for how long; the worker's own job too.
    jobs: HashMap<i32, (u64, Duration)>,
    /// By the runtime's number.
    asked: HashMap<u64, Asked>,
}

struct Asked {
    state: Arc<AtomicU8>,
    waited: Duration,
    /// Since it was told, or was begun.
    since: Duration,
    told: Option<u64>,
}

impl Pools {
    /// A sample.
    pub(crate) fn step(
        &mut self,
        credit: Duration,
        limit: Duration,
        threads: &[(ThreadInfo, Option<Seen>)],
        look: &mut dyn FnMut(i32) -> Option<Stuck>,
    ) {
        let before = std::mem::take(&mut self.jobs);
        for (info, seen) in threads {
            if let Some(Seen { id: id @ 1.., budget: None }) = *seen {
                let long = before.get(&info.tid).filter(|(same, _)| *same == id);
                self.jobs.insert(info.tid, (id, long.map_or(Duration::ZERO, |(_, long)| *long + credit)));
            }
        }
        let long = self.jobs.values().filter(|(_, long)| *long > limit).count();
        let runtimes = busy::numbered();
        self.asked.retain(|number, _| runtimes.iter().any(|(other, _)| other == number));
        // A worker is a job itself, one that doesn't end.
        let workers: usize = runtimes.iter().map(|(_, handle)| workers(handle)).sum();
        for (number, handle) in runtimes {
            let is_due = match self.asked.get_mut(&number) {
                None => true,
                Some(asked) => asked.step(credit, limit),
            };
            if is_due && long > workers && !limit.is_zero() {
                let state = Arc::new(AtomicU8::new(QUEUED));
                let canary = Canary(Arc::clone(&state));
                // tokio panics where the system has no thread for it.
                if catch_unwind(AssertUnwindSafe(|| shutdown::ask_pool(&handle, canary))).is_err() {
                    continue;
                }
                let asked = Asked { state, waited: Duration::ZERO, since: Duration::ZERO, told: None };
                self.asked.insert(number, asked);
            }
            if let Some(asked) = self.asked.get_mut(&number)
                && asked.is_starved(limit)
                && !may_begin(threads, &self.jobs)
            {
                let stuck = self.jobs.iter().filter(|(_, (_, long))| *long >= asked.waited);
                let held = stuck
                    .take(LOOKS)
                    .filter_map(|(tid, _)| Some((cpu::name(*tid), look(*tid)?)))
                    .collect::<Vec<_>>();
                if asked.state.load(Acquire) == QUEUED {
                    let number = next_case();
                    asked.told = Some(number);
                    let waited = asked.waited;
                    reporter::later(Box::new(move || told(number, waited, limit, held)));
                }
            }
        }
    }
}

impl Pools {
    /// Whether no job of ours waits.
    pub(crate) fn rest(&self) -> bool {
        let waits = |asked: &Asked| asked.told.is_some() || asked.state.load(Acquire) == QUEUED;
        !self.asked.values().any(waits)
    }
}

fn workers(handle: &::tokio::runtime::Handle) -> usize {
    use ::tokio::runtime::RuntimeFlavor::CurrentThread;
    if handle.runtime_flavor() == CurrentThread { 0 } else { handle.metrics().num_workers() }
}

impl Asked {
    /// Whether the pool may be asked anew.
    fn step(&mut self, credit: Duration, limit: Duration) -> bool {
        match self.state.load(Acquire) {
            QUEUED => {
                self.waited += credit;
                false
            }
            state => {
                if let Some(number) = self.told.take()
                    && state == RAN
                {
                    reporter::tell(over_words(number, self.waited, limit));
                }
                self.since += credit;
                self.since >= PAUSE
            }
        }
    }

    fn is_starved(&self, limit: Duration) -> bool {
        self.told.is_none() && self.waited > limit && self.state.load(Acquire) == QUEUED
    }
}

/// Whether a thread of a pool may be about to begin the job, and only waits for a processor.
fn may_begin(threads: &[(ThreadInfo, Option<Seen>)], jobs: &HashMap<i32, (u64, Duration)>) -> bool {
    let names: Vec<String> = jobs.keys().map(|tid| cpu::name(*tid)).collect();
    let polls = |tid: i32| {
        threads.iter().any(|(info, seen)| info.tid == tid && seen.is_some_and(|seen| seen.budget.is_some()))
    };
    let Ok(all) = std::fs::read_dir("/proc/self/task") else { return true };
    let mut others = all
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|tid| !jobs.contains_key(tid) && !polls(*tid));
    // One that has just been made has the name of its maker until it gives itself its own.
    let is_new = |tid| cpu::counts(tid).is_none_or(|counts| counts.runs <= 1);
    others.any(|tid| !cpu::sleeps(tid) && (is_new(tid) || names.contains(&cpu::name(tid))))
}

/// Whether the stack is in a blocking job of the program's.
fn is_job(stack: &[Named], complete: bool) -> bool {
    let (holds, n) = context::holds(stack, complete);
    let inside = stack.get(..n).unwrap_or(stack);
    holds == Holds::Nobody && inside.iter().any(|named| named.user)
}

fn told(number: u64, waited: Duration, limit: Duration, held: Vec<(String, Stuck)>) -> Option<Warning> {
    let jobs: Vec<_> =
        held.into_iter().filter(|(_, stuck)| is_job(&heap::names(&stuck.stack), stuck.complete)).collect();
    (!jobs.is_empty()).then(|| words(number, waited, limit, jobs))
}

fn words(number: u64, waited: Duration, limit: Duration, jobs: Vec<(String, Stuck)>) -> Warning {
    let count = jobs.len();
    let hold = match count {
        1 => "a job that doesn't end holds its thread".into(),
        LOOKS => format!("{count} jobs or more that don't end hold its threads"),
        _ => format!("{count} jobs that don't end hold its threads"),
    };
    let (waited, limit) = (words_of_time(waited), words_of_time(limit));
    let sentence = format!(
        "the blocking pool hasn't begun a new job for at least {waited}, limit {limit}: {hold} (#{number})"
    );
    let mut rows = Vec::new();
    let mut shown: Vec<(Stuck, String, usize)> = Vec::new();
    for (thread, stuck) in jobs {
        match shown.iter_mut().find(|(other, ..)| other.stack == stuck.stack) {
            Some((.., n)) => *n += 1,
            None => shown.push((stuck, thread, 1)),
        }
    }
    let more = shown.len().saturating_sub(SHOWN);
    for (stuck, thread, n) in shown.into_iter().take(SHOWN) {
        let state = stuck.doing();
        let note = if n == 1 { format!("{thread}, {state}") } else { format!("{n} threads, {state}") };
        rows.push(Row::stack("held by", stuck.shown()).noted(note));
    }
    if more > 0 {
        rows.push(Row::words("more", format!("{more} other stacks")));
    }
    let help = "files, look-ups of names and `spawn_blocking` wait for it: give jobs that last a thread of their own, \
                bound how many run at once, or raise `max_blocking_threads`";
    rows.push(Row::words("help", help.into()));
    Warning::new(Kind::PoolStarved, sentence, rows).of_case(Case::Begins(number))
}

fn over_words(number: u64, waited: Duration, limit: Duration) -> Warning {
    let (waited, limit) = (words_of_time(waited), words_of_time(limit));
    let sentence =
        format!("the blocking pool began a job after at least {waited}, limit {limit} (#{number})");
    Warning::new(Kind::PoolStarved, sentence, Vec::new()).of_case(Case::Ends(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_at_the_same_place_are_told_as_one_and_a_worker_is_no_job() {
        let stuck =
            |at| Stuck { stack: vec![at], words: Vec::new(), complete: true, call: None, polls: None };
        let jobs =
            vec![("thread a".into(), stuck(1)), ("thread b".into(), stuck(2)), ("thread c".into(), stuck(1))];
        let w = words(4, Duration::from_millis(112), Duration::from_millis(100), jobs);
        assert!(w.sentence.ends_with("112 ms, limit 100 ms: 3 jobs that don't end hold its threads (#4)"));
        let notes: Vec<_> = w.rows.iter().filter_map(|row| row.note.as_deref()).collect();
        assert_eq!(notes, ["2 threads, computing", "thread b, computing"]);

        let named = Named::called;
        let pool = "tokio::runtime::blocking::pool::Inner::run";
        let worker = "tokio::runtime::scheduler::multi_thread::worker::run";
        assert!(is_job(&[named("app::job"), named(pool)], true));
        assert!(!is_job(&[named("std::thread::park"), named(pool)], true));
        assert!(!is_job(&[named("app::task"), named(worker), named(pool)], true));
    }
}
