//! `slow-driver`: a turn of the driver that doesn't come back to its events, since a waker or a timer's callback inside of it is
//! busy. All I/O and all timers of the runtime wait meanwhile.
//!
//! No hook brackets a turn on stable tokio. A thread that polls nothing and isn't seen waiting for events, for longer than a poll
//! may take, is looked at (for three times as long, where nothing proves one turn); its stack tells whether it is in the driver.
//! One turn it is where the thread sat in one system call all the while, or where no worker of the attached runtimes left its
//! park. A waker that waits for a lock isn't seen: an idle worker looks the same.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::super::heap::{self, Named, ThreadInfo};
use super::super::reporter;
use super::super::stuck::{At, Stuck, at, is_wait};
use super::super::verdict::Case;
use super::super::warning::{Kind, Row, Warning};
use super::busy::Busy;
use super::proof::Seen;
use super::waits::{Found, Waits};
use super::watchdog::{closed, opened};
use super::{cpu, next_case, words_of_time};

/// So many threads that wait are asked in each step, of so many whose clocks are read, in turn: what a step costs doesn't grow with
/// their number.
const ASKED: usize = 2;
const READ: usize = 32;
/// A thread that was looked at and is in no driver is left alone for so long at first, and twice as long each time, up to a minute.
const PAUSE: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(60);
/// A thread that was in no wait for so many limits is looked at though nothing proves one turn.
const UNPROVED: u32 = 3;

/// What is known of each thread that polls nothing.
#[derive(Default)]
pub(crate) struct Turns {
    all: HashMap<i32, Turn>,
    next: usize,
}

#[derive(Default)]
struct Turn {
    waits: Waits,
    /// At the last sample, while it isn't seen waiting.
    before: Option<cpu::Spent>,
    /// The sample of the counters since which its time is counted.
    since: u64,
    spent: Duration,
    /// For how long it hasn't been seen waiting, in one turn or in many.
    long: Duration,
    /// How often it had had a processor when it sat in the system call that it is still in.
    runs: Option<u64>,
    told: Option<Told>,
    /// Not looked at for so long, and the next time for so long.
    pause: Duration,
    next_pause: Duration,
}

/// What its stack told, by name: the number of the report, or one of these.
struct Told(Arc<AtomicU64>);

/// Nobody has looked at it yet.
const ASKS: u64 = 0;
/// It is in no driver.
const NO_DRIVER: u64 = u64::MAX;
/// It is in a driver, perhaps in one turn after another.
const TURNS: u64 = u64::MAX - 1;

impl Turn {
    /// It waits for events, or polls something.
    fn over(&mut self, limit: Duration) {
        if let Some(told) = self.told.take() {
            let took = self.spent;
            closed();
            if told.0.load(Relaxed) != NO_DRIVER {
                (self.pause, self.next_pause) = Default::default();
                reporter::later(Box::new(move || {
                    let number = told.0.load(Relaxed);
                    (![ASKS, NO_DRIVER, TURNS].contains(&number)).then(|| over_words(number, took, limit))
                }));
            }
        }
        (self.before, self.spent, self.long, self.runs) = Default::default();
    }
}

impl Turns {
    /// A sample. `credit` surely passed since the step before, `last` of it since the last sample.
    pub(crate) fn step(
        &mut self,
        (credit, last): (Duration, Duration),
        limit: Duration,
        threads: &[(ThreadInfo, Option<Seen>)],
        busy: &Busy,
        look: &mut dyn FnMut(i32) -> Option<Stuck>,
    ) {
        self.all.retain(|tid, turn| {
            let is_here = threads.iter().any(|(info, _)| info.tid == *tid);
            if !is_here {
                turn.over(limit); // the thread has ended, and the turn with it
            }
            is_here
        });
        if limit.is_zero() {
            self.end(limit);
            return; // every wait for a processor would be a slow turn
        }
        let mut resting = Vec::new();
        for (info, seen) in threads {
            let turn = self.all.entry(info.tid).or_default();
            turn.pause = turn.pause.saturating_sub(credit);
            if seen.is_none_or(|seen| seen.budget.is_some()) {
                turn.over(limit);
                // What polls tasks may drive, too.
                (turn.pause, turn.next_pause) = Default::default();
            } else if turn.before.is_some() {
                turn.see(info, credit, limit, busy, look);
            } else if turn.pause.is_zero() {
                resting.push(info.tid);
            }
        }
        let mut asked = 0;
        for _ in 0..READ.min(resting.len()) {
            if asked == ASKED {
                break;
            }
            let tid = resting.get(self.next % resting.len()).copied().unwrap_or_default();
            self.next = self.next.wrapping_add(1);
            let Some(turn) = self.all.get_mut(&tid) else { continue };
            if turn.waits.read(tid) != Found::Unknown {
                continue;
            }
            asked += 1;
            if turn.waits.ask(tid) {
                continue;
            }
            if cpu::name(tid).contains("birthmark-") {
                turn.pause = PAUSE; // threads of our own drive nothing, and answer no signal
            } else {
                let now = cpu::Spent::of(tid);
                turn.before = Some(now);
                turn.since = busy.samples();
                turn.runs = now.sleeps.then_some(now.counts.runs);
                // It sleeps and hasn't run: it has slept in this since.
                turn.spent = if now.sleeps { turn.waits.stood(tid).min(last) } else { Duration::ZERO };
                turn.long = turn.spent;
            }
        }
    }

    /// Reads the clocks of these threads, which poll nothing, and asks where that isn't enough: the most that one may be in.
    pub(crate) fn read(&mut self, tids: impl ExactSizeIterator<Item = i32>) -> Found {
        let mut most = if tids.len() > READ { Found::Moves } else { Found::Waits };
        let mut asked = 0;
        for tid in tids.take(READ) {
            let turn = self.all.get_mut(&tid).filter(|turn| turn.before.is_none() && turn.pause.is_zero());
            most = most.max(match turn.map(|turn| (turn.waits.read(tid), turn)) {
                Some((Found::Unknown, turn)) => {
                    asked += 1;
                    if asked <= ASKED && turn.waits.ask(tid) { Found::Moves } else { Found::Unknown }
                }
                Some((found, _)) => found,
                None => Found::Moves,
            });
        }
        most
    }

    /// Whether no thread may be in a turn that is slow.
    pub(crate) fn rest(&self) -> bool {
        self.all.values().all(|turn| turn.before.is_none())
    }

    /// Whether one was in a turn in two samples.
    pub(crate) fn lasts(&self) -> bool {
        self.all.values().any(|turn| !turn.long.is_zero() || turn.told.is_some())
    }

    /// Switched off: what is known of turns under way is told.
    pub(crate) fn end(&mut self, limit: Duration) {
        self.all.values_mut().for_each(|turn| turn.over(limit));
    }
}

impl Turn {
    fn see(
        &mut self,
        info: &ThreadInfo,
        credit: Duration,
        limit: Duration,
        busy: &Busy,
        look: &mut dyn FnMut(i32) -> Option<Stuck>,
    ) {
        match at(info.tid) {
            Some(At::Waits) | None => return self.over(limit),
            Some(_) => {}
        }
        let now = cpu::Spent::of(info.tid);
        self.spent += self.before.replace(now).map_or(Duration::ZERO, |before| now.since(before, credit));
        if self.runs.is_some_and(|runs| runs != now.counts.runs) {
            self.runs = None;
        }
        match self.told.as_ref().map(|told| told.0.load(Relaxed)) {
            // Left alone while it is paused, and then asked anew.
            Some(NO_DRIVER) => return self.over(limit),
            Some(TURNS) => {
                self.told = None;
                closed();
                (self.pause, self.next_pause, self.long) = Default::default();
            }
            Some(_) => return,
            None => {}
        }
        self.long += credit;
        if self.runs.is_none() && !busy.all_parked(self.since) {
            (self.spent, self.since) = (Duration::ZERO, busy.samples()); // it began later, if it is one
        }
        // Of a thread that is in no driver nothing else may ever prove it. (What is being proved is looked at when it is.)
        let is_one = self.spent > limit;
        let is_unproved = self.spent.is_zero() && self.long > limit * UNPROVED;
        if !(is_one || is_unproved) || !self.pause.is_zero() {
            return;
        }
        let Some(stuck) = look(info.tid) else {
            self.pause = limit; // it doesn't answer: others may ask meanwhile
            return;
        };
        self.next_pause = (self.next_pause * 2).clamp(PAUSE, LONGEST);
        self.pause = self.next_pause;
        if stuck.call.is_some_and(is_wait) {
            return self.over(limit);
        }
        let (took, written) = (self.spent, Arc::new(AtomicU64::new(0)));
        self.told = Some(Told(Arc::clone(&written)));
        opened();
        let thread = cpu::name(info.tid);
        let test = heap::hold(info).map_or(0, |held| held.published().test());
        reporter::later(Box::new(move || {
            let is_driver = is_driver(&heap::names(&stuck.stack));
            let number = match (is_driver, is_one) {
                (true, true) => next_case(),
                (true, false) => TURNS,
                (false, _) => NO_DRIVER,
            };
            written.store(number, Relaxed);
            (is_driver && is_one).then(|| words(number, took, limit, thread, stuck).of_test(test))
        }));
    }
}

/// Whether the stack is in something that the driver called: a waker.
fn is_driver(stack: &[Named]) -> bool {
    let mut called = false;
    for named in stack {
        let Some(function) = named.function.as_deref() else { continue };
        // `<tokio::runtime::io::driver::Driver>::turn`
        let function = function.trim_start_matches('<');
        if function.starts_with("tokio::runtime::") {
            let part = |part: &str| function.starts_with(&format!("tokio::runtime::{part}"));
            if part("io::driver::") || part("time::") || part("driver::") || part("signal::") {
                return called;
            }
            if part("task::") || part("scheduler::multi_thread::worker::") || part("blocking::") {
                return false;
            }
        }
        called |= function.contains("wake") || named.user && !function.starts_with("mio::");
    }
    false
}

fn words(number: u64, took: Duration, limit: Duration, thread: String, stuck: Stuck) -> Warning {
    let (took, limit) = (words_of_time(took), words_of_time(limit));
    let sentence = format!(
        "the runtime's driver hasn't come back to its events for at least {took}, limit {limit}: it is stuck in a waker (#{number})"
    );
    let state = stuck.doing();
    let help = "a waker should only note that it was called and return; all I/O and timers of the runtime wait for it";
    let rows = vec![
        Row::stack("stuck in", stuck.shown()).noted(thread),
        Row::words("state", state),
        Row::words("help", help.into()),
    ];
    Warning::new(Kind::SlowDriver, sentence, rows).of_case(Case::Begins(number))
}

fn over_words(number: u64, took: Duration, limit: Duration) -> Warning {
    let (took, limit) = (words_of_time(took), words_of_time(limit));
    let sentence = format!("the driver came back after at least {took}, limit {limit} (#{number})");
    Warning::new(Kind::SlowDriver, sentence, Vec::new()).of_case(Case::Ends(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(functions: &[&str]) -> Vec<Named> {
        functions.iter().map(|f| Named { user: !f.starts_with("tokio"), ..Named::called(f) }).collect()
    }

    #[test]
    fn only_what_the_driver_called_is_a_slow_turn() {
        let turn = "tokio::runtime::io::driver::Driver::turn";
        let timers = "tokio::runtime::time::Handle::process_at_time";
        let park = "tokio::runtime::scheduler::multi_thread::worker::Context::park_internal";
        for (functions, is) in [
            (vec!["app::wake", "core::task::wake::Waker::wake", turn, park], true),
            (vec!["app::callback", timers, park], true),
            (vec!["tokio::util::wake_list::WakeList::wake_all", timers], true),
            (vec!["mio::poll::Poll::poll", turn, park], false),
            (vec![turn, park], false),
            (vec!["app::task", "tokio::runtime::task::harness::poll_future", turn], false),
            (vec!["app::job", "tokio::runtime::blocking::pool::Inner::run"], false),
            (vec!["app::main"], false),
        ] {
            assert_eq!(is_driver(&stack(&functions)), is, "{functions:?}");
        }
    }
}
