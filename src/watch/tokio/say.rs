//! Slow callbacks in words: names are found and the last judgement made on the reporter's thread.

use std::panic::Location;
use std::time::Duration;

use super::super::heap::{self, Named};
use super::super::reporter;
use super::super::stuck::Stuck;
use super::super::verdict::Case;
use super::super::warning::{Kind, Row, Warning};
use super::context::{self, Holds};
use super::{words_of_bytes, words_of_time};

/// Everything known of a poll that is stuck.
pub(crate) struct StuckPoll {
    pub number: u64,
    /// The task's id, 0: none.
    pub id: u64,
    /// Wrapped by us, and where; the root future of `run` nowhere.
    pub wrapped: Option<Option<&'static Location<'static>>>,
    /// Whether a worker of the attached runtimes stands still, as one must that this poll holds; nothing: not known.
    pub still: Option<bool>,
    pub took: Duration,
    pub limit: Duration,
    /// `took` counts from the poll's beginning.
    pub exact: bool,
    /// Where the task was spawned, as a hook tells it.
    pub made: Option<&'static Location<'static>>,
    pub allocated: u64,
    pub spawned: Option<Vec<usize>>,
    pub thread: String,
    /// The lock that it waits for: its holder's thread, and where it took it.
    pub lock: Option<(String, &'static Location<'static>)>,
    pub stuck: Stuck,
    /// The test that the thread works for.
    pub test: u64,
}

impl StuckPoll {
    /// Its worker goes on elsewhere: inlined without debug information, a `block_in_place` leaves no name.
    fn goes_on(&self, holds: Holds) -> bool {
        holds == Holds::Worker && self.still == Some(false)
    }
}

/// What a poll is called before names are known.
pub(crate) fn who(id: u64) -> String {
    if id == 0 { "the root future".into() } else { format!("task {id}") }
}

/// Tells of a stuck poll.
pub(crate) fn stuck(poll: StuckPoll) {
    reporter::later(Box::new(move || {
        let holds = |names: &[Named]| context::holds(names, poll.stuck.complete);
        // Most that nobody waits for are known by symbols alone.
        let (quick, _) = holds(&heap::symbols(&poll.stuck.stack));
        let known = poll.wrapped.is_none() && quick == Holds::Nobody || poll.goes_on(quick);
        let names = if known { Vec::new() } else { heap::names(&poll.stuck.stack) };
        let (holds, inside) = holds(&names);
        let nobody = poll.wrapped.is_none() && matches!(holds, Holds::Nobody | Holds::Unknown);
        if known || nobody || poll.goes_on(holds) {
            #[cfg(tokio_unstable)]
            if poll.exact {
                reporter::unsure(poll.number); // a hook's: its end knows more
                return None;
            }
            reporter::untold(poll.number);
            return None;
        }
        Some(stuck_words(&poll, holds, names.get(..inside).unwrap_or(&names)))
    }));
}

fn stuck_words(poll: &StuckPoll, holds: Holds, inside: &[Named]) -> Warning {
    let mut who = match (poll.id, poll.wrapped) {
        (0, Some(Some(_))) => "a watched future".into(),
        (id, _) => who(id),
    };
    let spawned = poll.spawned.as_deref().map(heap::names).unwrap_or_default();
    if let Some(name) =
        context::future_type(&spawned).or_else(|| context::future_name(inside).map(str::to_owned))
    {
        who.push_str(&format!(" `{name}`"));
    }
    let least = if poll.exact { "" } else { "at least " };
    let sentence = format!(
        "{who} has been in one poll for {least}{}, limit {}, and is still stuck (#{})",
        words_of_time(poll.took),
        words_of_time(poll.limit),
        poll.number
    );
    let mut rows = vec![
        Row::stack("stuck in", poll.stuck.shown()).noted(poll.thread.clone()),
        Row::words(
            "state",
            format!("{}; {} allocated meanwhile", poll.stuck.doing(), words_of_bytes(poll.allocated as i64)),
        ),
    ];
    if let Some((thread, place)) = &poll.lock {
        rows.push(Row::words("lock", format!("held by {thread}, taken {}:{}", place.file(), place.line())));
    }
    if let Some(Some(made)) = poll.wrapped {
        rows.push(Row::place("watched", made));
    }
    let mut help = match (context::foreign_block_on(inside), poll.stuck.call) {
        (Some(executor), _) => {
            // `block_in_place` is for workers only.
            let instead = if holds == Holds::Worker { "block_in_place" } else { "spawn_blocking" };
            format!(
                "`{executor}::block_on` inside a task blocks its thread, and with it the tasks that it may wait for: \
                 use `.await`, or `{instead}` around it"
            )
        }
        (None, Some(_)) => {
            "use `tokio::fs`, `spawn_blocking` or `block_in_place` for what blocks".to_string()
        }
        (None, None) => {
            "use `spawn_blocking` for what computes long, or `tokio::task::yield_now` in between".into()
        }
    };
    match (&poll.spawned, poll.made) {
        (Some(stack), _) => rows.push(Row::stack("spawned", stack.clone())),
        (None, Some(made)) => {
            rows.push(Row::place("spawned", made));
            help.push_str("; TRACEMALLOC=5 adds the whole stack that spawned it");
        }
        _ if poll.id != 0 => help.push_str("; TRACEMALLOC=5 adds where it was spawned"),
        _ => {}
    }
    rows.push(Row::words("help", help));
    Warning::new(Kind::SlowCallback, sentence, rows).of_case(Case::Begins(poll.number)).of_test(poll.test)
}

/// Tells that a poll that was told while stuck still is, and where it is now.
pub(crate) fn still(number: u64, who: &str, exact: bool, took: Duration, limit: Duration, stuck: Stuck) {
    let who = who.to_owned();
    reporter::later(Box::new(move || Some(still_words(number, &who, exact, took, limit, stuck))));
}

fn still_words(
    number: u64,
    who: &str,
    exact: bool,
    took: Duration,
    limit: Duration,
    stuck: Stuck,
) -> Warning {
    let least = if exact { "" } else { "at least " };
    let (took, limit) = (words_of_time(took), words_of_time(limit));
    let sentence = format!("{who} is still stuck, in one poll for {least}{took}, limit {limit} (#{number})");
    let rows = vec![Row::stack("stuck in", stuck.shown())];
    Warning::new(Kind::SlowCallback, sentence, rows).of_case(Case::GoesOn(number))
}

/// Tells that a poll that was told while stuck is over, or that its proof is.
pub(crate) fn over(number: u64, who: &str, exact: bool, took: Duration, limit: Duration) {
    reporter::tell(over_words(number, who, exact, took, limit));
}

fn over_words(number: u64, who: &str, exact: bool, took: Duration, limit: Duration) -> Warning {
    let (took, limit) = (words_of_time(took), words_of_time(limit));
    let sentence = if exact {
        format!("the poll of {who} ended after at least {took}, limit {limit} (#{number})")
    } else {
        format!("the poll of {who} took at least {took}, limit {limit} (#{number})")
    };
    Warning::new(Kind::SlowCallback, sentence, Vec::new()).of_case(Case::Ends(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stuck_poll_is_told_with_its_number_its_limit_and_its_name() {
        let poll = StuckPoll {
            number: 2,
            id: 17,
            wrapped: None,
            still: None,
            took: Duration::from_millis(112),
            limit: Duration::from_millis(100),
            exact: false,
            made: None,
            allocated: 3 << 20,
            spawned: None,
            thread: "thread w".into(),
            lock: None,
            test: 0,
            stuck: Stuck { stack: vec![1], words: Vec::new(), complete: true, call: None, polls: None },
        };
        let inside = [Named::called("app::serve::{{closure}}")];
        let w = stuck_words(&poll, Holds::Worker, &inside);
        assert_eq!(
            w.sentence,
            "task 17 `app::serve` has been in one poll for at least 112 ms, limit 100 ms, and is still stuck (#2)"
        );
        assert_eq!(w.rows[1].words.as_deref(), Some("computing; 3.0 MiB allocated meanwhile"));
        assert!(w.rows.last().unwrap().words.as_deref().unwrap().contains("yield_now"));
    }

    #[test]
    fn what_is_still_stuck_is_told_with_where_it_is_now_under_its_number() {
        let stuck = Stuck { stack: vec![7], words: Vec::new(), complete: true, call: None, polls: None };
        let ms = Duration::from_millis;
        let w = still_words(2, "task 17", false, ms(1024), ms(100), stuck);
        assert_eq!(w.sentence, "task 17 is still stuck, in one poll for at least 1.0 s, limit 100 ms (#2)");
        assert_eq!((w.rows.len(), w.rows[0].stack.as_slice(), w.case), (1, &[7][..], Case::GoesOn(2)));
    }

    #[test]
    fn ended_is_said_only_of_a_poll_that_ended() {
        let ms = Duration::from_millis;
        assert!(over_words(1, "task 3", true, ms(150), ms(100)).sentence.contains("ended after"));
        assert!(!over_words(1, "task 3", false, ms(150), ms(100)).sentence.contains("ended"));
    }
}
