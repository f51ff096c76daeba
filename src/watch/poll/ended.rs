//! What is told of a slow poll when it has ended: exact.

use std::panic::Location;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::super::judge::SlowCallback;
use super::super::tasks::registry::Place;
#[cfg(all(feature = "tokio", tokio_unstable))]
use super::super::tokio as runtime;
use super::super::verdict::Case;
use super::super::warning::{Kind, Row, Warning};
use super::super::{heap, reporter, units};
use super::{as_place, who, wrapped_by};
use crate::thread::Slot;

/// What is to be told of a slow poll.
pub(super) struct Telling {
    who: String,
    verdict: SlowCallback,
    limit: Duration,
    bytes: i64,
    rows: Vec<Row>,
    /// The report that the watchdog wrote of it, else 0.
    case: u64,
    /// A hook's poll: the report may not have been told, and whether it held its worker to the end is known.
    hooked: Option<bool>,
    /// The test that the thread works for.
    test: u64,
}

impl Telling {
    /// Tells it, or has it told where only the reporter knows what was told before.
    pub(super) fn now(self) {
        if self.hooked.is_some() && self.case != 0 {
            reporter::later(Box::new(move || self.warning()));
        } else {
            let case = self.case;
            reporter::tell(self.of_case(case));
        }
    }

    fn of_case(self, case: u64) -> Warning {
        ended(&self.who, self.verdict, self.limit, self.bytes, self.rows, case).of_test(self.test)
    }

    /// On the reporter's thread.
    fn warning(self) -> Option<Warning> {
        let case = self.case;
        #[cfg(all(feature = "tokio", tokio_unstable))]
        if let Some(held) = self.hooked
            && case != 0
            && reporter::was_unsure(case)
        {
            // The stack that was read while it was stuck didn't tell what it held up: now it is sure.
            return held.then(|| self.of_case(0));
        }
        Some(self.of_case(case))
    }
}

/// What is known of the poll that ends on this thread; nothing where it held nobody up.
pub(super) fn telling(
    slot: &'static Slot,
    verdict: SlowCallback,
    limit: Duration,
    bytes: i64,
) -> Option<Telling> {
    let p = &slot.poll;
    let made = p.made.load(Relaxed) as *const Location<'static>;
    let (case, test) = (p.case.load(Relaxed), p.test());
    // SAFETY: as in `current`.
    let made = unsafe { made.as_ref() };
    let place = as_place(p.place.load(Relaxed));
    #[cfg(all(feature = "tokio", tokio_unstable))]
    if let id @ 1.. = p.hooked.load(Relaxed) {
        let held = runtime::hooks::holds_its_worker();
        if !held && case == 0 {
            return None;
        }
        let help = |words: &str| Row::words("help", words.into());
        let rows = match (place.and_then(|place| heap::stack_of(place.spawned())), made) {
            (Some(stack), _) => vec![Row::stack("spawned", stack)],
            (None, Some(made)) => {
                vec![Row::place("spawned", made), help("TRACEMALLOC=5 adds the whole stack that spawned it")]
            }
            (None, None) => vec![help("async debug was off when it was spawned: where isn't known")],
        };
        let (who, hooked) = (format!("task {id}"), Some(held));
        return Some(Telling { who, verdict, limit, bytes, rows, case, hooked, test });
    }
    let root = place.is_some_and(Place::is_root);
    let spawned = if root { None } else { heap::trace_of(p.waker.load(Relaxed)) };
    let mut rows = Vec::new();
    if let Some(made) = made {
        rows.push(Row::place(wrapped_by(root), made));
    }
    match spawned {
        None if root => {}
        Some(stack) => rows.push(Row::stack("spawned", stack)),
        None => rows.push(Row::words("help", "TRACEMALLOC=5 adds where it was spawned".into())),
    }
    Some(Telling { who: who(root), verdict, limit, bytes, rows, case, hooked: None, test })
}

/// The report of a poll that has ended: exact. `rows`: its places, which what was told while it was stuck has already.
fn ended(
    who: &str,
    verdict: SlowCallback,
    limit: Duration,
    bytes: i64,
    rows: Vec<Row>,
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
    let rows = if case == 0 { rows } else { Vec::new() };
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
        let w = ended("task 3", verdict, Duration::from_millis(100), 2048, Vec::new(), 7);
        assert_eq!(
            w.sentence,
            "one poll of task 3 took 151 ms, limit 100 ms; it allocated 2.0 KiB (#7): ended"
        );
    }
}
